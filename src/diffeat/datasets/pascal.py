"""Pascal VOC and Pascal Context.

* VOC: ``JPEGImages``, ``SegmentationClass`` (palette pictures, 255 is void) and the lists in
  ``ImageSets/Segmentation``; with ``SegmentationClassAug`` also ``trainaug``.
* Context: ``JPEGImages``, ``SegmentationClassContext`` (0 is what none of the 59 classes is, 1…59) and the lists in
  ``ImageSets/SegmentationContext``; or ``trainval/*.mat`` as published, with ``labels.txt`` of its 459 names, of which
  the 59 are read by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.class_names import CONTEXT, VOC
from diffeat.datasets.coding import IGNORE, Coding
from diffeat.datasets.labelled import MaskDataset, with_pictures
from diffeat.datasets.pairs import inside, need, parsed, read_lines
from diffeat.errors import DatasetError
from diffeat.files import open_regular

PAGE = "http://host.robots.ox.ac.uk/pascal/VOC"
CONTEXT_PAGE = "https://cs.stanford.edu/~roozbeh/pascal-context"
_VOC = Coding(tuple((k, k) for k in range(len(VOC))))
_CONTEXT = Coding(tuple((k + 1, k) for k in range(len(CONTEXT))), void=(0, IGNORE))


@dataclass(frozen=True)
class MatFile(Coding):
    """Masks inside ``.mat`` files (of MATLAB up to version 7.2).

    Attributes:
        variable: That holds the numbers.
    """

    variable: str = ""

    def read(self, path: Path) -> NDArray:
        """Numbers (H, W); raises as of :class:`Coding`."""
        from scipy.io import loadmat

        try:
            with open_regular(path) as file:
                values = np.asarray(loadmat(file, variable_names=[self.variable])[self.variable])
            if values.ndim != 2 or values.dtype.kind not in "iu":
                raise ValueError(f"{self.variable} is no table of whole numbers")
        except Exception as error:  # damaged files raise anything
            raise DatasetError(f"The label map {path} cannot be read ({error}).") from error
        return values.astype(np.int64)


def read_voc(root: str | Path, split: str = "val", year: str = "2012") -> MaskDataset:
    """Read a split of VOC's segmentation, 21 classes with the background.

    Args:
        root: ``VOC2012``, or a folder that holds ``VOC2012`` or ``VOCdevkit/VOC2012``.
        year: Of the folder.

    Raises:
        DatasetError: A folder, list or picture is missing.
    """
    base = _base(Path(root), f"VOC{year}")
    augmented = split == "trainaug"
    names = _listed(base / "ImageSets" / "Segmentation" / f"{split}.txt", "voc", PAGE)
    folder = need(base / ("SegmentationClassAug" if augmented else "SegmentationClass"), "voc", PAGE)
    return MaskDataset("voc", split, with_pictures("voc", _pairs(base, folder, names, ".png"), _VOC, folder, PAGE), VOC)


def read_pascal_context(root: str | Path, split: str = "val") -> MaskDataset:
    """Read a split of Pascal Context, 59 classes; everything else is void.

    Raises:
        DatasetError: A folder, list or picture is missing.
    """
    name = "pascal-context"
    base = _base(Path(root), "VOC2010")
    folder, coding, ending = base / "SegmentationClassContext", _CONTEXT, ".png"
    original = next((place for place in (Path(root), base) if (place / "trainval").is_dir()), None)
    if not folder.is_dir() and original:
        folder, ending = original / "trainval", ".mat"
        coding = parsed(original / "labels.txt", name, CONTEXT_PAGE, _of_names)
    need(folder, name, CONTEXT_PAGE)
    lists = [place / f"{split}.txt" for place in (base / "ImageSets" / "SegmentationContext", folder.parent, base)]
    names = _listed(next((path for path in lists if path.is_file()), lists[0]), name, CONTEXT_PAGE)
    samples = with_pictures(name, _pairs(base, folder, names, ending), coding, folder, CONTEXT_PAGE)
    return MaskDataset(name, split, samples, CONTEXT)


def _base(root: Path, name: str) -> Path:
    return next((p for p in (root / name, root / "VOCdevkit" / name) if p.is_dir()), root)


def _listed(path: Path, name: str, page: str) -> list[str]:
    return parsed(path, name, page, lambda p: read_lines(p, lambda words: words[0]))


def _pairs(base: Path, folder: Path, names: list[str], ending: str) -> list[tuple[Path, Path]]:
    def one(_: Path) -> list[tuple[Path, Path]]:
        images = base / "JPEGImages"
        return [(inside(images, f"{n}.jpg"), inside(folder, f"{n}{ending}")) for n in names]

    return parsed(folder, "pascal", PAGE, one)


def _of_names(path: Path) -> Coding:
    """Numbers of the 59 among the 459 of ``labels.txt`` (``23: bedclothes``)."""
    found = {name: number for number, name in read_lines(path, _numbered)}
    plain = {re.sub(r"\W", "", name): k for k, name in enumerate(CONTEXT)}
    numbers = tuple((number, plain[name]) for name, number in found.items() if name in plain)
    if len(numbers) != len(CONTEXT):
        missing = next(name for name, k in plain.items() if k not in {label for _, label in numbers})
        raise ValueError(f"there is no {missing} in it")
    others = {number for name, number in found.items() if name not in plain}
    return MatFile(numbers, void=(0, *sorted(others)), variable="LabelMap")


def _numbered(words: list[str]) -> tuple[int, str]:
    return int(words[0].rstrip(":")), re.sub(r"\W", "", "".join(words[1:]))


CARD = DatasetCard(
    "voc",
    "label maps",
    read_voc,
    ("train", "val", "trainval", "trainaug"),
    scored="val",
    page=PAGE,
    options={"year": "Of the folder; 2012 by default."},
)
CONTEXT_CARD = DatasetCard(
    "pascal-context", "label maps", read_pascal_context, ("train", "val"), scored="val", page=CONTEXT_PAGE
)
