"""Linear interpolation along one axis, as indices and weights instead of a resized tensor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Axis:
    """How n positions read a row of cells: ``(1 - weight) * v[low] + weight * v[high]``.

    Attributes:
        low: (n,) integer, the cell before each position.
        high: (n,) integer, the next cell; equals ``low`` on the last one.
        weight: (n,) float64 in [0, 1).
        cells: Length of the row.
    """

    low: Tensor
    high: Tensor
    weight: Tensor
    cells: int

    def __len__(self) -> int:
        return len(self.low)

    @classmethod
    def at(cls, positions: Tensor, cells: int) -> Axis:
        """Read at ``positions`` in cells; beyond the centres of the border cells the border repeats."""
        clamped = positions.to(torch.float64).clamp(0, cells - 1)
        low = clamped.floor()
        weight = clamped - low
        index = low.long()
        return cls(index, (index + 1).clamp(max=cells - 1), weight, cells)

    @classmethod
    def resized(cls, cells: int, length: int) -> Axis:
        """``cells`` resized to ``length`` as ``align_corners=False``: ``src = (dst + ½)·cells/length − ½``."""
        places = torch.arange(length, dtype=torch.float64)
        return cls.at((places + 0.5) * (cells / length) - 0.5, cells)

    def to(self, device: torch.device) -> Axis:
        """The same on another device; weights become float32 where the device has no float64."""
        weight = self.weight.float() if device.type == "mps" else self.weight
        return Axis(self.low.to(device), self.high.to(device), weight.to(device), self.cells)

    def part(self, start: int, stop: int) -> Axis:
        """Positions ``start`` to ``stop`` only."""
        return Axis(self.low[start:stop], self.high[start:stop], self.weight[start:stop], self.cells)

    def apply(self, values: Tensor, dim: int) -> Tensor:
        """Interpolate ``values`` along ``dim``."""
        shape = [1] * values.ndim
        shape[dim] = len(self)
        weight = self.weight.to(values.dtype).reshape(shape)
        return torch.lerp(values.index_select(dim, self.low), values.index_select(dim, self.high), weight)
