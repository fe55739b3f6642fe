r"""Cosine similarity with every pixel of a picture, without a feature vector for every pixel.

Let :math:`g_p` be the features upsampled to pixel p by bilinear weights :math:`w_a` over the four cells a
around it, and q a unit descriptor. Interpolation is linear, so the similarity needs only the native grid:

.. math:: \cos(q, g_p) = \frac{\sum_a w_a \langle q, g_a\rangle}{\lVert g_p\rVert},\qquad
          \lVert g_p\rVert^2 = \sum_{a,b} w_a w_b \langle g_a, g_b\rangle

The numerator is the dot map of q on the native grid, upsampled. The norm needs the five Gram maps of a cell
with itself, its right, lower, lower right neighbour, and of the right with the lower one; it has no channel
axis and is the same for all descriptors. Both are exact: the argmax is that of upsampling, normalising and
comparing. Numbers of cells and pixels are free, so this also holds when the picture is smaller than the grid.

Gram maps are summed and combined in float64, since the norm of nearly opposite neighbours cancels.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffeat.errors import InvalidValueError, NonFiniteError
from diffeat.tasks.correspondence.axis import Axis

#: Bytes of scores held at once. On a CPU small parts stay in the cache and are faster.
_MEMORY = {"cpu": 1 << 20}
_MEMORY_ACCELERATOR = 256 << 20
#: Channels widened to float64 at once.
_CHANNELS = 64
#: Positions whose norms are combined at once.
_POSITIONS = 1 << 18
_EPS = 1e-12


class PreparedTarget:
    """A target's features, ready to be compared with any number of descriptors.

    Args:
        features: Features on their native grid; half precisions are computed in float32.
        rows: Where each row of the result reads the grid's rows.
        columns: Likewise for columns.

    Raises:
        NonFiniteError: Features hold NaN or infinity.
    """

    def __init__(self, features: Float[Tensor, "c h w"], rows: Axis, columns: Axis) -> None:
        check_features(features, "target")
        self.features = features if features.dtype in (torch.float32, torch.float64) else features.float()
        self._rows = rows.to(features.device)
        self._columns = columns.to(features.device)
        self._inverse_norm = self.features.new_empty(self.shape)
        for part, norms in self._norms():
            self._inverse_norm[part] = norms.clamp(min=_EPS).reciprocal().to(self.features.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the result."""
        return len(self._rows), len(self._columns)

    def similarity(self, descriptors: Float[Tensor, "n c"]) -> Float[Tensor, "n rows columns"]:
        """Cosine similarity of every descriptor with every position, in [-1, 1]."""
        return self._scores(self._dots(descriptors), 0, self.shape[0])

    def nearest(
        self, descriptors: Float[Tensor, "n c"], memory: int | None = None
    ) -> tuple[Int[Tensor, "n 2"], Float[Tensor, " n"]]:
        """The most similar position of every descriptor; among equals the first in reading order.

        Args:
            descriptors: Need not be of unit length.
            memory: Bytes of scores held at once; chosen by device if not given.

        Returns:
            Positions (column, row) and their similarities.
        """
        height, width = self.shape
        count = len(descriptors)
        size = self.features.element_size()
        budget = memory or _MEMORY.get(self.features.device.type, _MEMORY_ACCELERATOR)
        rows = max(1, min(height, budget // (size * width * max(1, min(count, 64)))))
        group = max(1, budget // (size * width * rows))
        best = descriptors.new_full((count,), -torch.inf, dtype=self.features.dtype)
        place = torch.zeros(count, dtype=torch.long, device=descriptors.device)
        for first in range(0, count, group):
            dots = self._dots(descriptors[first : first + group])
            some = slice(first, first + len(dots))
            for start in range(0, height, rows):
                score, index = self._scores(dots, start, start + rows).flatten(1).max(dim=1)
                better = score > best[some]
                best[some] = torch.where(better, score, best[some])
                place[some] = torch.where(better, index + start * width, place[some])
        return torch.stack((place % width, place // width), dim=1), best

    def _dots(self, descriptors: Tensor) -> Tensor:
        channels = self.features.shape[0]
        if descriptors.ndim != 2 or descriptors.shape[1] != channels:
            raise InvalidValueError(
                f"Descriptors of {descriptors.shape[-1]} channels do not fit target features of {channels}. "
                "Both pictures must be extracted by the same recipe."
            )
        unit = torch.nn.functional.normalize(descriptors.to(self.features), dim=1, eps=_EPS)
        dots = unit @ self.features.flatten(1)
        return self._columns.apply(dots.unflatten(1, self.features.shape[1:]), 2)

    def _scores(self, dots: Tensor, start: int, stop: int) -> Tensor:
        return self._rows.part(start, stop).apply(dots, 1).mul_(self._inverse_norm[start:stop])

    def norms(self) -> Float[Tensor, "rows columns"]:
        """Length of the interpolated feature vector at every position, in float64 where the device has it."""
        return torch.cat([norms for _, norms in self._norms()])

    def _norms(self) -> Iterator[tuple[slice, Tensor]]:
        """Some rows of :meth:`norms` at a time: of a large picture, float64 takes many bytes."""
        wide = torch.float32 if self.features.device.type == "mps" else torch.float64
        _, h, w = self.features.shape
        own, right, down, cross = self.features.new_zeros((4, h, w), dtype=wide)
        for part in self.features.split(_CHANNELS):
            g = part.to(wide)
            own += (g * g).sum(0)
            right[:, :-1] += (g[:, :, :-1] * g[:, :, 1:]).sum(0)
            down[:-1] += (g[:, :-1] * g[:, 1:]).sum(0)
            cross[:-1, :-1] += (g[:, :-1, :-1] * g[:, 1:, 1:] + g[:, :-1, 1:] * g[:, 1:, :-1]).sum(0)

        x0, x1, e = self._columns.low, self._columns.high, self._columns.weight.to(wide)
        both = e * (1 - e)
        same_row = own[:, x0] * (1 - e) ** 2 + own[:, x1] * e**2 + 2 * both * right[:, x0]
        next_row = down[:, x0] * (1 - e) ** 2 + down[:, x1] * e**2 + both * cross[:, x0]

        y0, y1, f = self._rows.low, self._rows.high, self._rows.weight.to(wide)[:, None]
        height, width = self.shape
        for start in range(0, height, most := max(1, _POSITIONS // width)):
            rows = slice(start, start + most)
            low, high, share = y0[rows], y1[rows], f[rows]
            squared = same_row[low] * (1 - share) ** 2 + same_row[high] * share**2
            squared += 2 * share * (1 - share) * next_row[low]
            yield rows, squared.clamp_(min=0).sqrt_()


def check_features(features: Tensor, whose: str) -> None:
    """Raise unless ``features`` is a (C, h, w) float map of finite values."""
    if features.ndim != 3 or not features.is_floating_point() or 0 in features.shape:
        raise InvalidValueError(
            f"The {whose} features must be a float map (channels, rows, columns), got {features.dtype} of "
            f"shape {tuple(features.shape)}."
        )
    if not torch.isfinite(features).all():
        raise NonFiniteError(
            f"The {whose} features hold NaN or infinity. Extract again in float32 or bfloat16 instead of float16."
        )
