"""What must not stay where it was made: features of a device before figures, files of two pictures in one place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.cli.predict import stems
from diffeat.errors import InvalidValueError, StoreError
from diffeat.evaluation.features import mirrored_pictures
from diffeat.features import FeatureMap
from diffeat.report.massive_figures import local_similarity
from diffeat.report.segments import names_of
from diffeat.storage import FeatureStore, export
from diffeat.studies import massive
from support.stores import FakeSource


class Elsewhere(torch.Tensor):
    """Values on another device: they reach this one by ``cpu()`` alone."""

    def cpu(self, *_: object) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def numpy(self, *_: object, **__: object) -> object:
        raise TypeError("can't convert a tensor of a device to numpy")


def test_examples_of_a_survey_are_brought_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    (feature,) = FakeSource().extract(torch.rand(1, 3, 8, 8))
    away = replace(feature, activations={n: m.as_subclass(Elsewhere) for n, m in feature.activations.items()})

    class Extractor:
        def __init__(self, *_: object) -> None: ...

        def extract(self, pictures: list[object]) -> list[FeatureMap]:
            return [away] * len(pictures)

    class Recipe:
        def replace(self, **_: object) -> Recipe:
            return self

    monkeypatch.setattr(massive, "Extractor", Extractor)
    monkeypatch.setattr(massive, "modulated_sites", lambda *_: [type("Site", (), {"raw": "raw"})])
    (found, _) = massive._examples(Recipe(), object(), [object(), object()], "place", [1])  # pyright: ignore
    assert set(found) == {"raw", "AdaLN", "AdaLN + discard"}
    for kept in found.values():
        for name, values in kept.activations.items():
            assert type(values) is torch.Tensor
            assert torch.equal(values, feature[name])
            local_similarity(values).numpy()


def test_two_pictures_never_share_a_file() -> None:
    assert names_of(list(map(Path, ["cat-2.png", "cat.png", "x/cat.png", "y/cat.png", "z/cat-2.png"]))) == [
        "cat-2", "cat", "cat-3", "cat-4", "cat-2-2",
    ]  # fmt: skip
    assert stems(["a/x.png", "a/y.png"]) == {"a/x.png": "a/x", "a/y.png": "a/y"}
    assert stems(["a/x.png", "a/x.jpg"]) == {"a/x.png": "a/x.png", "a/x.jpg": "a/x.jpg"}
    for names in (["../x.png", "x.png"], ["/a/x.png", "a/x.png"], ["x.png", "x.jpg", "x.jpg.png"]):
        with pytest.raises(InvalidValueError, match="would have one file"):
            stems(names)


@pytest.mark.parametrize("form", ["numpy", "safetensors", "webdataset", "parquet"])
def test_an_export_asks_for_the_room_that_its_values_take(form: str, tmp_path: Path, monkeypatch) -> None:
    """Arrays hold no bfloat16: what takes two bytes in the store takes four there."""
    source = FakeSource()
    features = source.extract(torch.rand(2, 3, 8, 8))
    with FeatureStore.of(tmp_path / "store", source, "bfloat16") as store:
        store.write_shard(features)
    values = sum(values.numel() for feature in features for values in feature.activations.values())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=3 * values))
    if form == "safetensors":
        assert export(tmp_path / "store", tmp_path / "out", form) == 2
    else:
        with pytest.raises(StoreError, match="has .* left"):
            export(tmp_path / "store", tmp_path / "out", form)
        assert not (tmp_path / "out").exists()


def test_two_maps_never_have_one_name_in_an_archive(tmp_path: Path) -> None:
    source = FakeSource()
    (feature,) = source.extract(torch.rand(1, 3, 8, 8))
    values = feature["a"]
    with source.store(tmp_path / "store") as store:
        store.write_shard([replace(feature, activations={"view/a": values, "view_a": -values})])
    with pytest.raises(StoreError, match="one name"):
        export(tmp_path / "store", tmp_path / "out", "webdataset")
    assert export(tmp_path / "store", tmp_path / "out", "numpy") == 1


def test_mirrored_copies_are_those_of_their_own_picture(tmp_path: Path) -> None:
    """Of pictures whose names end alike, in all that is between, and of one that was changed since."""
    names = ("one/a/b/c.png", "other/a/b/c.png", "one/a/b/c.bmp", "one/a-b/c.png")
    paths = [tmp_path / name for name in names]

    def write(path: Path, seed: int) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return pixels

    pictures = {path: write(path, seed) for seed, path in enumerate(paths)}
    for changed in (False, True):
        if changed:
            pictures[paths[0]] = write(paths[0], 99)
        copies = mirrored_pictures(paths, tmp_path / "mirrored")
        assert len(set(copies.values())) == len(paths)
        for path, copy in copies.items():
            assert np.array_equal(np.asarray(Image.open(copy)), pictures[path][:, ::-1])
