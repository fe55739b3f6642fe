"""Pictures with a depth or a surface normal at every pixel: what such datasets are read into."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.card import Samples
from diffeat.datasets.labelled import fitted
from diffeat.errors import DatasetError, clipped
from diffeat.files import open_regular
from diffeat.geometry.images import open_stored, stored_size
from diffeat.geometry.orientation import upright_point

Quantity = Literal["depth", "normals"]
_SHORTEST = 0.5  # of a vector that is a normal; what is shorter marks a pixel without one


@dataclass(frozen=True)
class TargetSample:
    """A picture and what is measured at its pixels.

    Attributes:
        image: Picture file.
        file: ``.npy``, or a picture: of depth with one channel, of normals (n + 1) / 2 in red, green and blue.
        quantity: Which it is.
        scale: Of depth: how many of the file's units are one of the target's; 1000 where millimetres become metres.
        category: What the picture shows, ``""`` where it is not said.
    """

    image: Path
    file: Path
    quantity: Quantity
    scale: float = 1.0
    category: str = ""

    def target(self) -> NDArray[np.float32]:
        """Depth (H, W), or unit normals (3, H, W), of the upright picture; NaN where nothing is known.

        Depth that is 0, negative or not finite, and normals shorter than a half, are not known. Normals keep the axes
        of the file: x along a row, y along a column.

        Raises:
            DatasetError: The file cannot be read, holds something else, or does not fit the picture.
            ImageError: The picture cannot be read.
        """
        values = _read(self.file, self.quantity)
        if self.quantity == "depth":
            depth = fitted(values, self.file, self.image)
            known = np.isfinite(depth) & (depth > 0)
            return np.where(known, depth / np.float32(self.scale), np.float32(np.nan)).astype(np.float32)
        normals = self._turned(values)
        length = np.sqrt((normals * normals).sum(-1, keepdims=True))
        with np.errstate(invalid="ignore", divide="ignore"):
            unit = np.where(length > _SHORTEST, normals / length, np.float32(np.nan))
        return np.ascontiguousarray(unit.transpose(2, 0, 1), dtype=np.float32)

    def _turned(self, normals: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normals of the upright picture: where an EXIF tag turns the picture it turns the vectors as well."""
        upright = fitted(normals, self.file, self.image)
        size, orientation = stored_size(self.image)
        if orientation == 1 or normals.shape[1::-1] != size:
            return upright
        origin = np.array(upright_point((0, 0), (1, 1), orientation))
        matrix = np.stack([np.array(upright_point(p, (1, 1), orientation)) - origin for p in ((1, 0), (0, 1))], axis=1)
        upright[..., :2] = upright[..., :2] @ matrix.T.astype(np.float32)
        return upright


@dataclass(frozen=True)
class TargetDataset(Samples[TargetSample]):
    """Pictures with depth or normals; a file is read when it is asked for, and not kept.

    Attributes:
        name: Of the dataset.
        split: Of the dataset.
        samples: In the dataset's order.
        quantity: What is measured.
        limits: Of depth: nearest and farthest that count.
        unit: Of depth: ``"m"`` where it is known.
        notes: What a reader of numbers must know.
    """

    name: str
    split: str
    samples: tuple[TargetSample, ...]
    quantity: Quantity
    limits: tuple[float, float] = (0.0, float("inf"))
    unit: str = ""
    notes: tuple[str, ...] = ()


def _read(path: Path, quantity: Quantity) -> NDArray[np.float32]:
    try:
        if path.suffix == ".npy":
            with open_regular(path) as file:
                values = np.load(file)
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
                raise ValueError("no array of numbers")
        else:
            values = np.asarray(open_stored(path))
            if quantity == "normals" and values.dtype == np.uint8:
                values = values.astype(np.float32) / 127.5 - 1
    except Exception as error:  # damaged files raise anything
        if not os.path.exists(path):
            raise DatasetError(f"There is no file of {quantity} {path}.") from None
        raise DatasetError(f"The {quantity} of {path} cannot be read ({clipped(str(error), 200)}).") from error
    shape = values.shape
    if quantity == "depth":
        values = np.squeeze(values) if values.ndim == 3 else values
    elif values.ndim == 3 and values.shape[0] == 3 != values.shape[2]:
        values = values.transpose(1, 2, 0)
    if values.ndim != (2 if quantity == "depth" else 3) or (quantity == "normals" and values.shape[2] != 3):
        wanted = "(rows, columns)" if quantity == "depth" else "(rows, columns, 3)"
        raise DatasetError(f"{path} holds no {quantity}: an array {wanted} is wanted, got shape {shape}.")
    return values.astype(np.float32)
