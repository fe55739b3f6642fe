"""What is marked in a picture: points and boxes by name, and a mask."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffeat.datasets.davis import read_mask
from diffeat.datasets.labelled import fitted
from diffeat.errors import DatasetError, InvalidValueError, shown
from diffeat.files import PICTURES, open_regular, read_rows, read_text

Point = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Annotation:
    """Marks in one picture, in its upright pixels; the centre of the first pixel is (0, 0).

    Attributes:
        points: (x, y) by name.
        boxes: (left, top, right, bottom) by name.
        mask: (H, W) numbers of objects or parts, 0 is background.
    """

    points: Mapping[str, Point] = field(default_factory=dict)
    boxes: Mapping[str, Box] = field(default_factory=dict)
    mask: NDArray[np.uint8] | None = field(default=None, repr=False)

    def check(self, size: tuple[int, int]) -> None:
        """Refuse marks that do not lie on a picture of (width, height).

        Raises:
            InvalidValueError: A mark lies outside, a box has no area, a mask is of another size or empty, or there is
                nothing.
        """
        width, height = size
        if not self.points and not self.boxes and self.mask is None:
            raise InvalidValueError("Nothing is marked: give points, boxes or a mask.")
        corners = [(f"box {n!r}", p) for n, b in self.boxes.items() for p in (b[:2], b[2:])]
        for name, (x, y) in [*((f"point {n!r}", p) for n, p in self.points.items()), *corners]:
            if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
                raise InvalidValueError(
                    f"The {name} at ({x:g}, {y:g}) lies outside the picture of {width}×{height} pixels."
                )
        for name, (left, top, right, bottom) in self.boxes.items():
            if right <= left or bottom <= top:
                raise InvalidValueError(f"The box {name!r} has no area; it is left,top,right,bottom.")
        if self.mask is not None:
            if self.mask.shape != (height, width):
                raise InvalidValueError(
                    f"The mask is of {self.mask.shape[1]}×{self.mask.shape[0]} pixels, the picture of {width}×{height}."
                )
            if not self.mask.any():
                raise InvalidValueError("The mask is empty: every pixel is background (0).")


def read_annotation(text: str, picture: str | Path | Image.Image) -> Annotation:
    """Marks as a user gives them.

    Args:
        text: A mask (a picture with numbers or a palette, 0 is background, or ``.npy``); a CSV file with the columns
            ``name, x, y`` or ``name, left, top, right, bottom``; a JSON file ``{"points": {name: [x, y]}, "boxes":
            {name: [left, top, right, bottom]}}``; or the numbers themselves, ``"120,80 200,90"`` for points,
            ``"10,20,110,95"`` for a box.
        picture: That is marked; its file tells whether a mask is of its stored or of its upright pixels.

    Raises:
        InvalidValueError: It is none of these.
        DatasetError: A mask that cannot be read or does not fit the picture.
    """
    ending = Path(text).suffix.lower()
    if ending in PICTURES or ending == ".npy":
        mask = _mask(Path(text))
        return Annotation(mask=mask if isinstance(picture, Image.Image) else fitted(mask, Path(text), Path(picture)))
    if ending == ".csv":
        return _from_rows(text)
    if ending == ".json":
        return _from_json(text)
    groups = [part for part in re.split(r"[\s;]+", text.strip()) if part]
    try:
        numbers = [tuple(float(v) for v in group.split(",")) for group in groups]
    except ValueError:
        numbers = []
    if not numbers or any(len(n) not in (2, 4) for n in numbers):
        missing = "" if os.path.exists(text) else " There is no such file."
        raise InvalidValueError(
            f"{shown(text)} marks nothing: give points '120,80 200,90', a box '10,20,110,95' (left,top,right,bottom), "
            f"or a file: a mask (picture, .npy), .csv or .json.{missing}"
        )
    return Annotation(
        {str(k + 1): (n[0], n[1]) for k, n in enumerate(numbers) if len(n) == 2},
        {str(k + 1): (n[0], n[1], n[2], n[3]) for k, n in enumerate(numbers) if len(n) == 4},
    )


def _mask(file: Path) -> NDArray[np.uint8]:
    if not file.exists():
        raise DatasetError(f"There is no mask {shown(str(file))}.")
    if file.suffix.lower() == ".npy":
        try:
            with open_regular(file) as handle:
                values = np.load(handle)
        except (OSError, ValueError) as error:
            raise DatasetError(f"The mask {shown(str(file))} cannot be read: {error}") from None
        if values.ndim != 2 or values.dtype.kind not in "iub" or values.min() < 0 or values.max() > 255:
            raise DatasetError(f"The mask {shown(str(file))} holds no whole numbers from 0 to 255 in rows and columns.")
        return values.astype(np.uint8)
    return read_mask(file)


def _from_rows(file: str) -> Annotation:
    points: dict[str, Point] = {}
    boxes: dict[str, Box] = {}
    for line, row in read_rows(file, "list of points", ("name",)):
        name = row["name"]
        if name in points or name in boxes:
            raise InvalidValueError(f"{file}, line {line}: {shown(name)} is named twice.")
        try:
            if "left" in row:
                boxes[name] = (float(row["left"]), float(row["top"]), float(row["right"]), float(row["bottom"]))
            else:
                points[name] = (float(row["x"]), float(row["y"]))
        except (KeyError, ValueError):
            raise InvalidValueError(
                f"{file}, line {line}: numbers are wanted in the columns x, y, or left, top, right, bottom."
            ) from None
    return Annotation(points, boxes)


def _from_json(file: str) -> Annotation:
    text = read_text(file, "annotation", 1 << 24)
    try:
        data = json.loads(text)
        points = {str(n): (float(x), float(y)) for n, (x, y) in data.get("points", {}).items()}
        boxes = {str(n): (float(a), float(b), float(c), float(d)) for n, (a, b, c, d) in data.get("boxes", {}).items()}
    except (json.JSONDecodeError, AttributeError, TypeError, ValueError):
        raise InvalidValueError(
            f'{shown(file)} is no annotation: {{"points": {{name: [x, y]}}, "boxes": {{name: [left, top, right, '
            "bottom]}} is wanted."
        ) from None
    return Annotation(points, boxes)
