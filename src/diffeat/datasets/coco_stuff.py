"""COCO-Stuff: pictures of 2017 with ``stuffthingmaps``, or the 10k of 2014 with ``.mat`` files.

* 164k: ``train2017/*.jpg`` and ``stuffthingmaps/train2017/*.png`` (or below ``images`` and ``annotations``), of numbers
  0…181 of which eleven never occur; ``*_labelTrainIds.png``, made by others, of 0…170.
* 10k: ``images/*.jpg``, ``annotations/*.mat`` and ``imageLists/train.txt``; numbers are one more, 0 is void.
"""

from __future__ import annotations

from pathlib import Path

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.class_names import COCO_STUFF, COCO_UNUSED
from diffeat.datasets.coding import IGNORE, Coding
from diffeat.datasets.labelled import MaskDataset, with_pictures
from diffeat.datasets.pairs import inside, parsed, read_lines
from diffeat.datasets.pascal import MatFile
from diffeat.errors import DatasetError

PAGE = "https://github.com/nightrome/cocostuff"
_RAW = tuple((n, k) for k, n in enumerate(n for n in range(182) if n not in COCO_UNUSED))
_STUFF = Coding(_RAW)
_TRAINED = Coding(tuple((k, k) for k in range(len(COCO_STUFF))))
_MAT = MatFile(tuple((n + 1, k) for n, k in _RAW), void=(0, IGNORE), variable="S")
_TRAIN_IDS = "_labelTrainIds"
_SMALL = {"train": "train", "val": "test"}  # the 10k has no part but these two


def read_coco_stuff(root: str | Path, split: str = "val") -> MaskDataset:
    """Read a split, 171 classes; of the 10k, ``val`` is its test part.

    Raises:
        DatasetError: The folder is missing or half unpacked.
    """
    top = Path(root)
    listing = top / "imageLists" / f"{_SMALL[split]}.txt"
    if listing.is_file():
        pairs = parsed(listing, "coco-stuff", PAGE, lambda p: read_lines(p, lambda words: _small(top, words[0])))
        return _dataset(split, pairs, _MAT, top, "the 10k pictures of 2014")
    name = f"{split}2017"
    places = [top / "stuffthingmaps" / name, top / "annotations" / name, top / "annotations" / "stuffthingmaps" / name]
    folder = next((place for place in places if place.is_dir()), None)
    images = next((place for place in (top / "images" / name, top / name) if place.is_dir()), None)
    if folder is None or images is None:
        raise DatasetError(
            f"{top} is no COCO-Stuff: {'pictures' if folder else 'label maps'} of {name} are missing (images/{name} "
            f"and stuffthingmaps/{name} are wanted). It comes from {PAGE}"
        )
    masks = sorted(folder.glob("*.png"))
    trained = [m for m in masks if m.stem.endswith(_TRAIN_IDS)]
    chosen = trained or masks
    found = [(images / f"{m.stem.removesuffix(_TRAIN_IDS)}.jpg", m) for m in chosen]
    return _dataset(split, found, _TRAINED if trained else _STUFF, folder, "the 164k pictures of 2017")


def _small(top: Path, name: str) -> tuple[Path, Path]:
    return inside(top / "images", f"{name}.jpg"), inside(top / "annotations", f"{name}.mat")


def _dataset(split: str, pairs: list[tuple[Path, Path]], coding: Coding, folder: Path, note: str) -> MaskDataset:
    return MaskDataset(
        "coco-stuff", split, with_pictures("coco-stuff", pairs, coding, folder, PAGE), COCO_STUFF, (note,)
    )


CARD = DatasetCard("coco-stuff", "label maps", read_coco_stuff, ("train", "val"), scored="val", page=PAGE)
