"""Datasets with labels of pixels or of pictures, by name."""

from __future__ import annotations

from pathlib import Path

from diffeat.datasets.cifar import read_cifar10
from diffeat.datasets.class_folders import read_class_folders
from diffeat.datasets.label_scarce import CLASSES, read_label_scarce
from diffeat.datasets.labelled import ClassDataset, MaskDataset
from diffeat.datasets.toyworld_labels import read_toyworld_classes, read_toyworld_parts
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean

MASK_DATASETS: tuple[str, ...] = (*CLASSES, "toyworld-parts")
CLASS_DATASETS: tuple[str, ...] = ("cifar10", "folders", "toyworld-classes")


def open_masks(name: str, root: str | Path | None, split: str) -> MaskDataset:
    """Read a dataset of label maps.

    Raises:
        UnknownNameError: No such dataset or split.
        DatasetError: It is missing or not complete.
    """
    folder = _folder(name, root, MASK_DATASETS)
    return read_toyworld_parts(folder, split) if name == "toyworld-parts" else read_label_scarce(folder, name, split)


def open_classes(name: str, root: str | Path | None, split: str) -> ClassDataset:
    """Read a dataset of classes; errors as :func:`open_masks`."""
    folder = _folder(name, root, CLASS_DATASETS)
    readers = {"cifar10": read_cifar10, "folders": read_class_folders, "toyworld-classes": read_toyworld_classes}
    return readers[name](folder, split)


def _folder(name: str, root: str | Path | None, known: tuple[str, ...]) -> Path:
    if name not in known:
        raise UnknownNameError(f"No dataset {name!r} here. {did_you_mean(name, known)}".rstrip())
    if root is None:
        raise InvalidValueError(f"Dataset {name!r} needs its folder: give --root PATH.")
    return Path(root)
