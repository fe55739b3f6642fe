"""Pictures with a label for every pixel, or one for the whole: what such datasets are read into."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from diffeat.datasets.card import Samples
from diffeat.errors import DatasetError, UnknownNameError, clipped, did_you_mean
from diffeat.files import open_regular
from diffeat.geometry.images import open_stored, stored_size
from diffeat.geometry.nearest import resized_labels
from diffeat.geometry.orientation import is_stored, upright_array, upright_size

#: The label of pixels that do not count.
IGNORE = 255


@dataclass(frozen=True)
class MaskSample:
    """A picture and its label map.

    Attributes:
        image: Picture file.
        mask: Label map: ``.npy`` or a picture with one channel (palette indices count), of the picture's size.
        category: What the picture shows, ``""`` where it is not said.
    """

    image: Path
    mask: Path
    category: str = ""

    def labels(self, classes: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """The label map (H, W) of the upright picture, int64; :data:`IGNORE` does not count.

        Args:
            size: (width, height) to resize it to by OpenCV's nearest neighbour; it may then be of any size.

        Raises:
            DatasetError: The map cannot be read, does not fit the picture (:func:`fitted`), or holds other labels.
            ImageError: The picture cannot be read.
        """
        values = fitted(_read_map(self.mask), self.mask, self.image, any_size=size is not None)
        wrong = np.unique(values[(values != IGNORE) & ((values < 0) | (values >= classes))])
        if len(wrong):
            raise DatasetError(
                f"{self.mask} holds label {wrong[0]}, but there are {classes} classes (0 to {classes - 1}; {IGNORE} is "
                "ignored)."
            )
        return values if size is None else resized_labels(values, size)


@dataclass(frozen=True)
class MaskDataset(Samples[MaskSample]):
    """Pictures with label maps; a map is read when it is asked for, and not kept.

    Attributes:
        name: Of the dataset.
        split: Of the dataset.
        samples: In the dataset's order.
        classes: Name of every label.
        notes: What a reader of numbers must know.
    """

    name: str
    split: str
    samples: tuple[MaskSample, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def only(self, categories: Sequence[str]) -> MaskDataset:
        """The pictures of some categories.

        Raises:
            UnknownNameError: No picture of a category.
        """
        known = sorted({s.category for s in self.samples})
        for name in categories:
            if name not in known:
                raise UnknownNameError(f"{self.name} has no category {name!r}. {did_you_mean(name, known)}".rstrip())
        return replace(self, samples=tuple(s for s in self.samples if s.category in categories))


@dataclass(frozen=True)
class ClassSample:
    """A picture (file or array) and the number of its class."""

    image: Path | np.ndarray
    label: int


@dataclass(frozen=True)
class ClassDataset(Samples[ClassSample]):
    """Pictures with one class each; see :class:`MaskDataset`."""

    name: str
    split: str
    samples: tuple[ClassSample, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def limited(self, count: int | None) -> Self:
        """The first ``count`` pictures of every class, noted; all of them if ``None``."""
        if count is None:
            return self
        seen: Counter[int] = Counter()
        kept = []
        for sample in self.samples:
            seen[sample.label] += 1
            if seen[sample.label] <= count:
                kept.append(sample)
        return self._with(tuple(kept), f"only the first {count} pictures of each class ({self.split})")


def fitted(values: np.ndarray, file: Path, picture: Path, *, any_size: bool = False) -> np.ndarray:
    """A label map (H, W) of a picture, made on its stored or on its upright pixels, for the upright picture.

    Args:
        file: That the map comes from, for messages.
        any_size: Whether it may be a smaller or larger drawing of the picture.

    Raises:
        DatasetError: It is of another size than the picture and may not be, or an EXIF tag turns the picture and the
            sizes cannot tell which of the two the map is of.
        ImageError: The picture cannot be read.
    """
    size, orientation = stored_size(picture)
    height, width = values.shape
    if is_stored((width, height), size, orientation, f"{file}, the label map of {picture}"):
        values = upright_array(values, orientation)
    if values.shape[::-1] != upright_size(size, orientation) and (orientation != 1 or not any_size):
        raise DatasetError(
            f"{file} labels {width}×{height} pixels, but {picture} has {size[0]}×{size[1]}. Labels must be of the "
            "picture's own size: resize them with nearest neighbour, or take the pictures that were labelled. "
            "(Segmentation with protocol 'gdf' resizes labels of upright pictures.)"
        )
    return np.ascontiguousarray(values)


def _read_map(path: Path) -> np.ndarray:
    try:
        values = _read_array(path) if path.suffix == ".npy" else np.asarray(open_stored(path))
    except Exception as error:  # damaged files raise anything
        if not os.path.exists(path):
            raise DatasetError(f"There is no label map {path}.") from None
        raise DatasetError(f"The label map {path} cannot be read ({clipped(str(error), 200)}).") from error
    values = np.squeeze(values)
    if values.ndim != 2 or (values.dtype.kind not in "iub" and not np.array_equal(values, np.round(values))):
        raise DatasetError(
            f"{path} is no label map: whole numbers (rows, columns) are wanted, got {values.dtype} of shape "
            f"{values.shape}."
        )
    return np.clip(values, -1, IGNORE + 2**16).astype(np.int64)


def _read_array(path: Path) -> np.ndarray:
    with open_regular(path) as file:
        values = np.load(file)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iubf":
        raise ValueError("no array of numbers")
    return values
