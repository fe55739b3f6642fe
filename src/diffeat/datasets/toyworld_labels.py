"""The part labels and classes of a toy world that :mod:`diffeat.datasets.toyworld_spair` wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.coding import Coding
from diffeat.datasets.labelled import ClassDataset, ClassSample, MaskDataset, MaskSample
from diffeat.datasets.pairs import inside, need, parsed, read_json
from diffeat.datasets.toyworld.figure import PARTS
from diffeat.errors import DatasetError, UnknownNameError, did_you_mean

PAGE = "`diffeat toyworld write FOLDER`"
SPLITS = {"train": "trn", "trn": "trn", "val": "val", "test": "test"}


def read_toyworld_parts(root: str | Path, split: str = "train") -> MaskDataset:
    """Pictures with the part every pixel shows (43 labels shared by all classes; 0 is everything else).

    Raises:
        DatasetError: The folder is no toy world, or not complete.
        UnknownNameError: No such split.
    """
    samples = tuple(
        MaskSample(image, need(image.parents[2] / "Segmentation" / name / f"{image.stem}.png", "toyworld", PAGE), name)
        for name, image in pictures_of(root, split)
    )
    return MaskDataset("toyworld-parts", split, samples, PARTS)


def read_toyworld_figures(root: str | Path, split: str = "train") -> MaskDataset:
    """Pictures with the class of the figure at every pixel, 0 elsewhere; errors as :func:`read_toyworld_parts`."""
    parts = read_toyworld_parts(root, split)
    names = tuple(dict.fromkeys(sample.category for sample in parts))
    coding = {
        name: Coding(((0, 0), *((k, label) for k in range(1, len(PARTS))))) for label, name in enumerate(names, 1)
    }
    samples = tuple(replace(sample, coding=coding[sample.category]) for sample in parts)
    return MaskDataset("toyworld-figures", split, samples, ("background", *names))


def read_toyworld_classes(root: str | Path, split: str = "train") -> ClassDataset:
    """Pictures with the class of the figure they show; errors as :func:`read_toyworld_parts`."""
    found = pictures_of(root, split)
    names = tuple(dict.fromkeys(name for name, _ in found))
    return ClassDataset(
        "toyworld-classes", split, tuple(ClassSample(image, names.index(name)) for name, image in found), names
    )


def pictures_of(root: str | Path, split: str) -> list[tuple[str, Path]]:
    """Class and file of every picture of a split; errors as :func:`read_toyworld_parts`."""
    if split not in SPLITS:
        raise UnknownNameError(f"The toy world has no split {split!r}. {did_you_mean(split, SPLITS)}".rstrip())
    folder = Path(root)
    stamp = need(folder / "toyworld.json", "toyworld", PAGE, "the settings of a written toy world")
    images = folder / "JPEGImages"
    classes = parsed(stamp, "toyworld", PAGE, lambda p: [inside(images, name) for name in read_json(p)["classes"]])
    found = [
        (pictures.name, image) for pictures in classes for image in sorted(pictures.glob(f"{SPLITS[split]}_*.jpg"))
    ]
    if not found:
        raise DatasetError(f"The toy world {folder} has no pictures of split {split!r}. Write it with {PAGE}.")
    return found


_SPLITS = ("train", "val", "test")
FIGURES_CARD = DatasetCard("toyworld-figures", "label maps", read_toyworld_figures, _SPLITS, page=PAGE)
PARTS_CARD = DatasetCard("toyworld-parts", "label maps", read_toyworld_parts, _SPLITS, page=PAGE)
CLASSES_CARD = DatasetCard("toyworld-classes", "classes", read_toyworld_classes, _SPLITS, page=PAGE)
