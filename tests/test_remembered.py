"""Encodings that are kept give the bits that are computed, are bounded, and never survive a change of what encodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from diffeat.backbones import Memory, remembered
from diffeat.extraction import Extractor
from diffeat.features import FeatureMap
from support.techniques import backbone, picture, recipe  # noqa: F401 (fixtures)

CPU = torch.device("cpu")
PICTURES = [picture(i) for i in range(3)]


@contextmanager
def counted(module: nn.Module) -> Iterator[list[int]]:
    """Rows of the calls of a module."""
    rows: list[int] = []
    handle = module.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        handle.remove()


def features(backbone, t: float, pictures: list[Image.Image] = PICTURES) -> list[FeatureMap]:  # noqa: F811
    source = Extractor(recipe(trajectory={"timesteps": [t]}), backbone, batch_size=2)
    return source.extract(pictures)


def same(one: list[FeatureMap], other: list[FeatureMap]) -> bool:
    return all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a.activations)


def test_every_timestep_sees_the_pictures_encoded_once_bit_for_bit(backbone, tmp_path: Path) -> None:  # noqa: F811
    expected = {t: features(backbone, t) for t in (50, 300)}
    encoder = backbone.pipeline.vae.encoder
    with counted(encoder) as rows, remembered(tmp_path / "kept"):
        for t in (50, 300, 50):
            assert same(features(backbone, t), expected[t])
    assert sum(rows) == len(PICTURES)
    with counted(encoder) as rows, Memory(tmp_path / "kept", memory=0) as kept:  # another run: from the disk
        assert same(features(backbone, 300), expected[300])
        assert rows == []
        file = next((tmp_path / "kept").iterdir())
        file.write_bytes(file.read_bytes()[:-3] + b"abc")  # damaged: made anew
        assert same(features(backbone, 50), expected[50])
        assert len(rows) == 1
        weight = next(backbone.pipeline.vae.parameters())
        before = weight.detach().clone()
        with torch.no_grad():
            weight.add_(0.5)
            changed = features(backbone, 50)
            weight.copy_(before)
        assert not same(changed, expected[50])
        kept.clear()
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_is_bounded_and_other_files_stay(tmp_path: Path) -> None:
    pair = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    (tmp_path / "mine.safetensors").write_bytes(b"mine")
    kept = Memory(tmp_path, memory=2.5 * 2048, disk=3.5 * 2400)
    made = []
    for number in range(10):
        kept.get_or_make(f"{number:064x}", CPU, lambda: made.append(1) or pair)
    files = sorted(file.name for file in tmp_path.iterdir())
    assert files == [*(f"{number:064x}.safetensors" for number in (7, 8, 9)), "mine.safetensors"]
    kept.get_or_make(f"{8:064x}", CPU, lambda: made.append(1) or pair)
    kept.get_or_make(f"{0:064x}", CPU, lambda: made.append(1) or pair)
    assert len(made) == 11
    again = Memory(tmp_path, disk=3.5 * 2400)  # knows what is there
    again.get_or_make(f"{11:064x}", CPU, lambda: pair)
    assert len(list(tmp_path.iterdir())) == 4
    again.clear()
    assert [file.name for file in tmp_path.iterdir()] == ["mine.safetensors"]


def test_a_full_disk_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    kept = Memory(tmp_path / "file" / "folder")
    pair = torch.zeros(1), torch.ones(1)
    for _ in range(2):
        assert kept.get_or_make("0" * 64, CPU, lambda: pair) == pair
    assert caplog.text.count("cannot be written") == 1


def test_texts_are_encoded_once_for_all_runs(backbone, tmp_path: Path) -> None:  # noqa: F811
    encoder = backbone.pipeline.text_encoder

    def conditions(*texts: str) -> list[torch.Tensor]:
        backbone.texts._rows.clear()
        backbone.texts._texts.clear()
        return [row["encoder_hidden_states"] for row in backbone.condition(texts).rows]

    expected = conditions("a cat", "a dog")
    calls: list[int] = []
    handle = encoder.register_forward_pre_hook(lambda *_: calls.append(1))
    for _ in range(2):
        with remembered(tmp_path / "kept"):
            assert all(torch.equal(a, b) for a, b in zip(conditions("a cat", "a dog"), expected, strict=True))
    assert len(calls) == 2
    weight = next(encoder.parameters())
    before = weight.detach().clone()
    with remembered(tmp_path / "kept"), torch.no_grad():
        weight.add_(0.5)
        changed = conditions("a cat")
        weight.copy_(before)
    handle.remove()
    assert not torch.equal(changed[0], expected[0])
    backbone.texts._rows.clear()
    backbone.texts._texts.clear()
