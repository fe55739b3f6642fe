"""ADE20K: the scene parsing challenge's folders, and the whole dataset of 2021.

* ``ADEChallengeData2016/images/training/*.jpg`` and ``annotations/training/*.png``: 0 is void, 1…150 are the classes.
* ``ADE20K_2021_17_01/images/ADE/training/SCENE/…/NAME.jpg`` with ``NAME_seg.png`` and ``NAME.json``: red and green hold
  the number of an object's name, which the JSON file spells; those of the challenge's 150 classes are read by their
  first name, all others are void.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.class_names import ADE20K
from diffeat.datasets.coding import IGNORE, Coding
from diffeat.datasets.labelled import MaskDataset, with_pictures
from diffeat.datasets.pairs import need, parsed
from diffeat.errors import DatasetError, ImageError
from diffeat.files import open_regular
from diffeat.geometry.images import open_stored

PAGE = "https://ade20k.csail.mit.edu"
_SPLITS = {"train": "training", "val": "validation"}
_FROM_ONE = Coding(tuple((k + 1, k) for k in range(len(ADE20K))), void=(0, IGNORE))


@dataclass(frozen=True)
class NamedObjects(Coding):
    """Masks of the whole dataset, whose numbers are told by a JSON file beside each."""

    def read(self, path: Path) -> NDArray:
        """Numbers (H, W) as the challenge has them; raises as of :class:`Coding`."""
        need(path, "ade20k", PAGE)
        try:
            stored = np.asarray(open_stored(path).convert("RGB")).astype(np.int64)
        except ImageError as error:
            raise DatasetError(f"The label map {path} cannot be read ({str(error).removesuffix('.')}).") from error
        numbers = stored[..., 0] // 10 * 256 + stored[..., 1]
        beside = path.with_name(path.name.removesuffix("_seg.png") + ".json")
        table = parsed(beside, "ade20k", PAGE, _read_names)
        found = np.unique(numbers)
        labels = np.array([table.get(int(n), 0) for n in found])
        return labels[np.searchsorted(found, numbers)].astype(np.uint8)


def read_ade20k(root: str | Path, split: str = "val") -> MaskDataset:
    """Read the pictures of a split, 150 classes; pixels of others are void.

    Raises:
        DatasetError: The folder is missing or half unpacked.
    """
    top = Path(root)
    for base in (top, top / "ADEChallengeData2016", top / "ADE20K_2021_17_01"):
        if (base / "annotations").is_dir():
            folder = base / "annotations" / _SPLITS[split]
            masks = sorted(need(folder, "ade20k", PAGE).glob("*.png"))
            images = base / "images" / _SPLITS[split]
            return _dataset(split, [(images / f"{m.stem}.jpg", m) for m in masks], _FROM_ONE, folder)
        if (base / "images" / "ADE").is_dir():
            folder = need(base / "images" / "ADE" / _SPLITS[split], "ade20k", PAGE)
            masks = sorted(folder.rglob("*_seg.png"))
            coding = NamedObjects(_FROM_ONE.numbers, void=_FROM_ONE.void)
            pairs = [(m.with_name(m.name.removesuffix("_seg.png") + ".jpg"), m) for m in masks]
            note = "the challenge's 150 classes are found by the first of an object's names"
            return _dataset(split, pairs, coding, folder, (note,))
    raise DatasetError(
        f"{top} is no ADE20K: annotations/{_SPLITS[split]} (the challenge) or images/ADE (the whole) is wanted. It "
        f"comes from {PAGE}"
    )


def _dataset(
    split: str, pairs: list[tuple[Path, Path]], coding: Coding, folder: Path, notes: tuple[str, ...] = ()
) -> MaskDataset:
    return MaskDataset("ade20k", split, with_pictures("ade20k", pairs, coding, folder, PAGE), ADE20K, notes)


@cache
def _numbers() -> dict[str, int]:
    return {name: k + 1 for k, name in enumerate(ADE20K)}


def _read_names(path: Path) -> dict[int, int]:
    """The challenge's number of every number of a name."""
    with open_regular(path) as file:
        objects = json.loads(file.read().decode("latin-1"))["annotation"]["object"]
    table = {}
    for entry in objects:
        first = str(entry["name"]).split(",")[0].strip().lower()
        if first in _numbers():
            table[int(entry["name_ndx"])] = _numbers()[first]
    return table


CARD = DatasetCard("ade20k", "label maps", read_ade20k, tuple(_SPLITS), scored="val", page=PAGE)
