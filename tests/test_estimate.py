"""What an extraction will take is what it takes."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffeat.activations import Catalogue
from diffeat.cli.main import main
from diffeat.errors import StoreError
from diffeat.extraction import Extractor, Reading, extract_to_store
from diffeat.extraction.estimate import check_room, estimate
from diffeat.features import Picture, list_pictures
from diffeat.storage import FeatureStore
from support.techniques import backbone  # noqa: F401 (fixture)

RECIPE = {
    "model": "x", "frame": {"mode": "squash", "size": 64}, "trajectory": {"timesteps": [100, 300], "draws": 3},
    "activations": ["up_blocks.0", "up_blocks.1"],
}  # fmt: skip
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for n in range(20):
        pixels = np.random.default_rng(n).integers(0, 255, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{n:02d}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_bytes_and_rows_are_those_of_the_extraction(backbone, photos: Path, tmp_path: Path, dtype: str) -> None:  # noqa: F811
    source, pictures = Extractor(Reading.from_dict(RECIPE), backbone), list(list_pictures(photos))
    pictures[7] = Picture("gone", lambda: {}["gone"])
    with FeatureStore.of(tmp_path / "store", source, dtype) as store:
        expected = estimate(source, pictures, store.packed, tmp_path)
        extract_to_store(source, pictures, store)
    assert (expected.pictures, expected.measured) == (20, 8 - 1 if 7 in {int(i * 2.5) for i in range(8)} else 8)
    assert expected.rows == 20 * 2 * 3
    files = [f.read_bytes() for f in (tmp_path / "store" / "shards").iterdir()]
    written = sum(len(data) - 8 - int.from_bytes(data[:8], "little") for data in files)  # but for the headers
    assert written * 20 / 19 == pytest.approx(expected.bytes, rel=0.02)
    itemsize = {"float16": 2, "float32": 4, "int8": 1}[dtype]
    catalogue = Catalogue.of(backbone, (64, 64))
    cells = sum(
        a.channels * a.grid[0] * a.grid[1] for a in catalogue.find(["up_blocks.0", "up_blocks.1"]) if a.grid is not None
    )
    closed = 20 * 2 * cells * itemsize  # two timesteps
    channels = sum(a.channels for a in catalogue.find(["up_blocks.0", "up_blocks.1"]))
    factors = 20 * 2 * channels * 4 if dtype == "int8" else 0  # a float of each channel
    assert closed <= expected.bytes <= closed + factors
    whole = catalogue.flops
    depth = catalogue["up_blocks.1"].depth
    assert expected.flops > 20 * 6 * whole * depth  # and the autoencoder's


def test_what_the_disk_does_not_hold_is_refused(backbone, photos: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    source, pictures = Extractor(Reading.from_dict(RECIPE), backbone), list(list_pictures(photos))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, 20_000))
    with FeatureStore.of(tmp_path / "store", source) as store:
        with pytest.raises(StoreError, match=r"of 20 pictures would take .*, and 20 kB are free"):
            check_room(source, [Picture("gone", lambda: {}["gone"]), *pictures[1:]], store.packed, tmp_path)
        check_room(source, [Picture("gone", lambda: {}["gone"])], store.packed, tmp_path)


def test_the_command(photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    out = tmp_path / "features"
    cheap = [str(photos), "-r", "tiny-dift", "--size", "32", "--set", "trajectory.draws=1", "--out", str(out)]
    main(["extract", *cheap, "--plan"])
    said = capsys.readouterr().out
    for word in ("20 to extract", "rows", "FLOPs", "a picture, by one process", "are free"):
        assert word in said
    assert not out.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**6, 0, 20_000))
    for arguments in (["--plan"], []):
        with pytest.raises(SystemExit) as left:
            main(["extract", *cheap, *arguments])
        assert left.value.code == 2
        assert "Nothing was extracted" in capsys.readouterr().err
    assert not out.exists()
