r"""A picture in overlapping windows, and what is said of them put together.

Windows of w×h pixels lie every stride, the last ones moved back to the border, as papers slide. Where several cover a
pixel, their scores are averaged: with equal weights (``mean``, as papers do), or weighted by the distance from the
window's border (``hat``: :math:`\min(i + 1, n - i)` along each side, multiplied), which shows no seams. Pixels come out
in strips, as soon as no later window sees them, so that memory does not grow with the picture's height.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor
from operator import gt
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from diffeat.explain import InvalidFieldsError
from diffeat.tasks.predictors.head import Opinion, PixelOpinions

#: left, top, right, bottom
Box = tuple[int, int, int, int]
Side = Annotated[int, Field(ge=1, le=2**16)]
Share = Annotated[float, Field(gt=0, le=1)]
#: Values of a strip that are held at once.
_VALUES = 1 << 23


class Windows(BaseModel):
    """Which windows; raises InvalidValueError where a value does not fit.

    Example:
        >>> Windows(size=(512, 512), stride=(256, 512)).boxes((1024, 512))
        [(0, 0, 512, 512), (256, 0, 768, 512), (512, 0, 1024, 512)]
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[Side, Side] | None = Field(
        default=None, description="(width, height) in pixels; a square of the picture's shorter side if none"
    )
    stride: tuple[Side, Side] | Share = Field(
        default=2 / 3, description="between windows: (x, y) in pixels, or a share of their size"
    )
    blend: Literal["hat", "mean"] = Field(default="hat", description="weights where windows overlap")

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidFieldsError("Windows", error, type(self)) from None

    @model_validator(mode="after")
    def _without_gaps(self) -> Self:
        if self.size and isinstance(self.stride, tuple) and any(map(gt, self.stride, self.size)):
            raise ValueError(f"stride {self.stride} is larger than the windows {self.size}: pixels would be left out")
        return self

    def boxes(self, picture: tuple[int, int]) -> list[Box]:
        """The windows of a picture of (width, height) pixels, in reading order."""
        (columns, width), (rows, height) = (self._along(axis, picture) for axis in (0, 1))
        return [(x, y, x + width, y + height) for y in rows for x in columns]

    def _along(self, axis: int, picture: tuple[int, int]) -> tuple[list[int], int]:
        """Where windows begin, and their length."""
        length = picture[axis]
        size = min(length, self.size[axis] if self.size else min(picture))
        share = self.stride
        stride = min(size, share[axis]) if isinstance(share, tuple) else max(1, floor(size * share + 1e-6))
        count = ceil((length - size) / stride) + 1
        return [min(i * stride, length - size) for i in range(count)], size

    def __str__(self) -> str:
        size = "squares of the shorter side" if self.size is None else f"{self.size[0]}×{self.size[1]} pixels"
        share = self.stride
        every = f"every {share[0]}×{share[1]}" if isinstance(share, tuple) else f"every {share:.3g} of it"
        return f"windows of {size} {'side by side' if share == 1 else every}, blended by {self.blend}"


class Mosaic:
    """The opinions of a picture's windows put together, as soon as no later window can change them.

    Args:
        size: (width, height) of the picture.
        classes: How many scores a pixel has, for the memory of a strip.
    """

    def __init__(self, size: tuple[int, int], classes: int, blend: Literal["hat", "mean"] = "mean") -> None:
        self._width, self._height = size
        self._step = max(1, _VALUES // (self._width * max(1, classes)))
        self._blend: Literal["hat", "mean"] = blend
        self._parts: dict[Box, PixelOpinions] = {}
        self._done = 0

    def add(self, box: Box, part: PixelOpinions, following: Box | None) -> Iterator[tuple[int, Opinion]]:
        """Take the next window in reading order; gives the strips that are finished by it.

        Args:
            part: What is said of the window's own pixels.
            following: The window after it; ``None`` after the last.

        Returns:
            The first row of each strip, and what is said of it (k, rows, width).
        """
        self._parts[box] = part
        until = self._height if following is None else following[1]
        for start in range(self._done, until, self._step):
            yield start, self._rows(start, min(until, start + self._step))
        self._done = max(self._done, until)
        self._parts = {box: part for box, part in self._parts.items() if box[3] > self._done}

    def _rows(self, start: int, stop: int) -> Opinion:
        """Weighted means over the windows that see the rows."""
        seen = {box: part for box, part in self._parts.items() if box[1] < stop and box[3] > start}
        if len(seen) == 1:  # it is as wide as the picture
            (_, top, _, _), part = next(iter(seen.items()))
            return part.rows(start - top, stop - top)
        sums: dict[str, Tensor] = {}
        total = torch.zeros(stop - start, self._width)
        for (left, top, right, bottom), part in seen.items():
            first, last = max(start, top), min(stop, bottom)
            opinion = part.rows(first - top, last - top)
            weight = self._weight(right - left, bottom - top)[first - top : last - top].to(opinion.scores.device)
            place = slice(first - start, last - start), slice(left, right)
            total = total.to(weight.device)
            total[place] += weight
            for name in ("scores", "probabilities", "uncertainty"):
                if (values := getattr(opinion, name)) is not None:
                    if name not in sums:
                        sums[name] = values.new_zeros(*values.shape[:-2], stop - start, self._width)
                    sums[name][(..., *place)] += values * weight
        return Opinion(**{name: values / total for name, values in sums.items()})

    def _weight(self, width: int, height: int) -> Tensor:
        if self._blend == "mean":
            return torch.ones(height, width)
        x, y = (torch.minimum(torch.arange(n) + 1, n - torch.arange(n)).float() for n in (width, height))
        return y[:, None] * x / (x.max() * y.max())
