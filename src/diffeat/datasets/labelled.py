"""Pictures with a label for every pixel, or one for the whole: what such datasets are read into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.card import Samples
from diffeat.datasets.coding import IGNORE, PLAIN, UNKNOWN, Coding, Colour, colour_map
from diffeat.errors import DatasetError, UnknownNameError, did_you_mean
from diffeat.geometry.images import stored_size
from diffeat.geometry.nearest import resized_labels
from diffeat.geometry.orientation import is_stored, upright_array, upright_size


@dataclass(frozen=True)
class MaskSample:
    """A picture and its label map.

    Attributes:
        image: Picture file.
        mask: Label map: a picture or ``.npy``, of the picture's size.
        category: What the picture shows, ``""`` where it is not said.
        coding: What the numbers or colours of the label map mean.
    """

    image: Path
    mask: Path
    category: str = ""
    coding: Coding = PLAIN

    def labels(self, classes: int, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """The label map (H, W) of the upright picture; :data:`IGNORE` does not count.

        Args:
            size: (width, height) to resize it to by OpenCV's nearest neighbour; it may then be of any size.

        Raises:
            DatasetError: The map cannot be read, does not fit the picture (:func:`fitted`), or holds other labels.
            ImageError: The picture cannot be read.
        """
        stored = fitted(self.coding.read(self.mask), self.mask, self.image, any_size=size is not None)
        labels = self.coding.labels(stored)
        wrong = (labels == UNKNOWN) | ((labels >= classes) & (labels != IGNORE))
        if wrong.any():
            first = stored[wrong][0]
            what = f"label {first}" if stored.ndim == 2 else f"colour {' '.join(map(str, first))}"
            raise DatasetError(
                f"{self.mask} holds {what} at {wrong.sum()} pixels, which is none of the {classes} classes "
                f"({self.coding.told(classes)})."
            )
        labels = labels.astype(np.uint8)
        return labels if size is None else resized_labels(labels, size)


@dataclass(frozen=True)
class MaskDataset(Samples[MaskSample]):
    """Pictures with label maps; a map is read when it is asked for, and not kept.

    Attributes:
        name: Of the dataset.
        split: Of the dataset.
        samples: In the dataset's order.
        classes: Name of every label, 255 at most.
        notes: What a reader of numbers must know.
        colours: (red, green, blue) of every label; those of Pascal VOC where none are given.
        void: The label of pixels that do not count.

    Raises:
        DatasetError: More classes than bytes can tell apart.
    """

    name: str
    split: str
    samples: tuple[MaskSample, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    void: ClassVar[int] = IGNORE

    def __post_init__(self) -> None:
        if len(self.classes) > IGNORE:
            raise DatasetError(
                f"{self.name} has {len(self.classes)} classes; labels are kept as bytes, of which {IGNORE} at most are "
                "classes. Join rare ones."
            )
        if not self.colours:
            object.__setattr__(self, "colours", colour_map(len(self.classes)))

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

    image: Path | np.ndarray = field(repr=False)
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


def with_pictures(
    name: str, pairs: list[tuple[Path, Path]], coding: Coding, folder: Path, page: str
) -> tuple[MaskSample, ...]:
    """Samples of pictures and masks.

    Raises:
        DatasetError: There are no masks, or a picture is missing.
    """
    if not pairs:
        raise DatasetError(f"{folder} holds no label map. {name} comes from {page}")
    missing = [image for image, _ in pairs if not image.is_file()]
    if missing:
        raise DatasetError(
            f"{name}: {len(missing)} of {len(pairs)} label maps in {folder} have no picture, the first would be "
            f"{missing[0]}. Unpack the whole archive; it comes from {page}"
        )
    return tuple(MaskSample(image, mask, "", coding) for image, mask in pairs)


def fitted(values: np.ndarray, file: Path, picture: Path, *, any_size: bool = False) -> np.ndarray:
    """A label map (H, W, …) of a picture, made on its stored or on its upright pixels, for the upright picture.

    Args:
        file: That the map comes from, for messages.
        any_size: Whether it may be a smaller or larger drawing of the picture.

    Raises:
        DatasetError: It is of another size than the picture and may not be, or an EXIF tag turns the picture and the
            sizes cannot tell which of the two the map is of.
        ImageError: The picture cannot be read.
    """
    size, orientation = stored_size(picture)
    height, width = values.shape[:2]
    if is_stored((width, height), size, orientation, f"{file}, the label map of {picture}"):
        values = upright_array(values, orientation)
    if values.shape[1::-1] != upright_size(size, orientation) and (orientation != 1 or not any_size):
        raise DatasetError(
            f"{file} labels {width}×{height} pixels, but {picture} has {size[0]}×{size[1]}. Labels must be of the "
            "picture's own size: resize them with nearest neighbour, or take the pictures that were labelled. "
            "(Segmentation with protocol 'gdf' resizes labels of upright pictures.)"
        )
    return np.ascontiguousarray(values)
