"""What holds for every registered dataset, on a stand-in of its layout."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import diffeat.datasets
from diffeat.datasets.card import DatasetCard
from diffeat.datasets.davis import VideoDataset
from diffeat.datasets.hpatches import PlanarDataset, PlanarPair
from diffeat.datasets.labelled import ClassDataset, MaskDataset
from diffeat.datasets.measured import TargetDataset, TargetSample
from diffeat.datasets.pairs import PairDataset
from diffeat.datasets.registry import DATASETS, dataset_names, get_card, open_dataset
from diffeat.errors import DatasetError, InvalidValueError, UnknownNameError
from diffeat.tasks.correspondence import PROTOCOLS
from stand_ins import STAND_INS

TYPES = {
    "pairs": PairDataset,
    "homographies": PlanarDataset,
    "label maps": MaskDataset,
    "classes": ClassDataset,
    "videos": VideoDataset,
    "depth": TargetDataset,
    "normals": TargetDataset,
}
every_card = pytest.mark.parametrize("card", DATASETS.values(), ids=lambda c: c.name)


def test_every_card_of_a_reader_is_registered_and_has_a_stand_in() -> None:
    cards = set()
    for module in pkgutil.iter_modules(diffeat.datasets.__path__):
        if module.name != "registry":
            for value in vars(importlib.import_module(f"diffeat.datasets.{module.name}")).values():
                several = value if isinstance(value, tuple) else (value,)
                cards |= {c.name for c in several if isinstance(c, DatasetCard)}
    assert cards == set(DATASETS) == set(STAND_INS)


@every_card
def test_it_reads_what_its_card_says(card: DatasetCard, tmp_path: Path) -> None:
    root = STAND_INS[card.name](tmp_path)
    data = open_dataset(card.name, root)
    assert isinstance(data, TYPES[card.kind])
    assert data.name == card.name
    assert len(data) > 0
    assert data.split == (card.split() or data.split)
    assert len(data.limited(1)) == (len(data.classes) if isinstance(data, ClassDataset) else 1)
    assert data.limited(1).notes != data.notes or len(data) == 1
    for files in map(_files, data):
        for image, size in files:
            if isinstance(image, Path):
                with Image.open(image) as opened:
                    assert size in (None, opened.size)
            else:
                assert np.asarray(image).ndim == 3
    for split in {"train", "val"} & set(card.splits):
        assert open_dataset(card.name, root, split).split in (split, "trn")


def _files(sample) -> list:
    """The pictures of a sample, with (width, height) of what is annotated."""
    if hasattr(sample, "frames"):
        return [(f, None) for f in (*sample.frames, *filter(None, sample.masks))]
    if isinstance(sample, PlanarPair):
        return [(sample.source, None), (sample.target, None)]
    if isinstance(sample, TargetSample):
        return [(sample.image, sample.target().shape[:-3:-1])]
    if hasattr(sample, "target"):
        return [(sample.source, sample.source_size), (sample.target, sample.target_size)]
    return [(sample.image, sample.labels(255).shape[::-1] if hasattr(sample, "mask") else None)]


@every_card
def test_what_is_wrong_is_told(card: DatasetCard, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="--root"):
        open_dataset(card.name, None)
    with pytest.raises(DatasetError, match="nowhere"):
        open_dataset(card.name, tmp_path / "nowhere")
    with pytest.raises(UnknownNameError if card.splits else InvalidValueError, match="split"):
        open_dataset(card.name, tmp_path, "tset")
    with pytest.raises(InvalidValueError, match="no option 'colour'"):
        open_dataset(card.name, tmp_path, colour="red")
    other = "pairs" if card.kind != "pairs" else "classes"
    with pytest.raises(InvalidValueError, match=f"holds {card.kind}, not {other}"):
        get_card(card.name, other)


@every_card
def test_a_card_is_whole(card: DatasetCard) -> None:
    assert card.name in dataset_names(card.kind)
    assert (card.protocol in PROTOCOLS) == (card.kind == "pairs")
    assert not card.splits or card.scored in card.splits
    if card.splits and "val" not in card.splits:
        with pytest.raises(InvalidValueError, match="no val split"):
            card.split_to_choose_on()
    else:
        assert card.split_to_choose_on() == ("val" if card.splits else None)
