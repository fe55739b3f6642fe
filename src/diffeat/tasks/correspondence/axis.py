"""Linear interpolation along an axis, as indices and weights instead of a resized tensor, and at points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.geometry import Frame


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


def sample_descriptors(features: Float[Tensor, "c h w"], cells: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
    """Bilinear samples at points (x, y) in cells; beyond the border cells' centres the border repeats.

    At the pixel centres of a picture this equals reading the map resized to that picture
    (``align_corners=False``). Half precisions are sampled in float32.
    """
    wide = features if features.dtype in (torch.float32, torch.float64) else features.float()
    columns = Axis.at(cells[:, 0].cpu(), features.shape[2]).to(features.device)
    rows = Axis.at(cells[:, 1].cpu(), features.shape[1]).to(features.device)
    e, f = columns.weight.to(wide.dtype), rows.weight.to(wide.dtype)
    above = torch.lerp(wide[:, rows.low, columns.low], wide[:, rows.low, columns.high], e)
    below = torch.lerp(wide[:, rows.high, columns.low], wide[:, rows.high, columns.high], e)
    return torch.lerp(above, below, f).T


def cell_centres(frame: Frame, grid: tuple[int, int]) -> Float[Tensor, "n 2"]:
    """The centres of the cells of a grid, in reading order, in original pixels (x, y)."""
    y, x = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in grid), indexing="ij")
    return frame.points_from_grid(torch.stack((x, y), -1).reshape(-1, 2), grid)
