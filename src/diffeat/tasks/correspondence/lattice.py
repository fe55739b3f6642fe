r"""Where a prediction may lie: the target's pixels, a resized picture's pixels, or the feature cells.

A picture of W₀ pixels read on a lattice of n positions over it. Published procedures disagree on the half
pixel:

============== ================ ================ =====================================================
 convention     to the lattice   back             as in
============== ================ ================ =====================================================
 half-pixel     (p+½)·n/W₀ − ½   (i+½)·W₀/n − ½   geometry of ``align_corners=False``; DIFT, DiTF, SPair
 edge           p·n/W₀ − ½       (i+½)·W₀/n       GeoAware-SC: points measured from the picture's edge
 index          p·n/W₀           i·W₀/n           Hyperfeatures: indices scaled
============== ================ ================ =====================================================

What a lattice position *shows* is always the half-pixel truth; the convention only says how points are
converted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError, did_you_mean
from diffeat.geometry import Frame
from diffeat.tasks.correspondence.axis import Axis

Convention = Literal["half-pixel", "edge", "index"]
_SHIFTS: dict[str, tuple[float, float]] = {"half-pixel": (0.5, 0.5), "edge": (0.0, 0.5), "index": (0.0, 0.0)}


@dataclass(frozen=True)
class Lattice:
    """Positions at which target features are compared.

    Attributes:
        size: ``"original"``: every pixel of the original picture. ``"cells"``: the native feature cells.
            (width, height): the pixels of the picture resized to that.
        convention: See the module's table. ``"original"`` needs no conversion.
        snap: Whether a source point first moves to the position it lies on, as in procedures that index a
            resized map (``"index"`` rounds half to even). Never for ``"original"``, where points may lie
            between pixels.
    """

    size: Literal["original", "cells"] | tuple[int, int] = "original"
    convention: Convention = "half-pixel"
    snap: bool = False

    def __post_init__(self) -> None:
        if self.convention not in _SHIFTS:
            raise InvalidValueError(
                f"No half-pixel convention {self.convention!r}. {did_you_mean(self.convention, _SHIFTS)}"
            )
        size = self.size
        if isinstance(size, (tuple, list)):
            object.__setattr__(self, "size", tuple(size))
            if len(size) != 2 or min(size) < 1:
                raise InvalidValueError(f"A lattice size is (width, height) of at least 1×1, got {size}.")
        elif size not in ("original", "cells"):
            raise InvalidValueError(f"A prediction grid is 'original', 'cells' or (width, height), got {size!r}.")
        if size == "original" and (self.snap or self.convention != "half-pixel"):
            raise InvalidValueError("The original pixels need neither snapping nor a half-pixel convention.")

    def source_cells(self, points: Tensor, frame: Frame, grid: tuple[int, int]) -> Tensor:
        """Where in the source's feature grid the descriptors of ``points`` (original pixels) are read."""
        points = points.to(torch.float64)
        if self.size == "original":
            return frame.points_to_grid(points, grid)
        places = self._to_lattice(points, frame, grid)
        if self.snap:
            limit = places.new_tensor([n - 1 for n in self._shape(grid)])
            places = torch.minimum(places.clamp(min=0), limit)
            places = places.round() if self.convention == "index" else (places + 0.5).floor()
        if self.size == "cells":
            return places
        return frame.points_to_grid(self._shown(places, frame), grid)

    def axes(self, frame: Frame, grid: tuple[int, int]) -> tuple[Axis, Axis]:
        """How the lattice's (rows, columns) read the target's feature grid."""
        width, height = frame.original if self.size == "original" else self._shape(grid)
        places = torch.zeros(max(width, height), 2, dtype=torch.float64)
        places += torch.arange(max(width, height), dtype=torch.float64)[:, None]
        if self.size == "cells":
            cells = places
        elif self.size == "original":
            cells = frame.points_to_grid(places, grid)
        else:
            cells = frame.points_to_grid(self._shown(places, frame), grid)
        return Axis.at(cells[:height, 1], grid[0]), Axis.at(cells[:width, 0], grid[1])

    def to_original(self, places: Tensor, frame: Frame, grid: tuple[int, int]) -> Tensor:
        """Lattice positions (x, y), which may be fractional, in original target pixels (float64)."""
        places = places.to(torch.float64)
        if self.size == "original":
            return places
        a, b = _SHIFTS[self.convention]
        if self.size == "cells":
            step = places.new_tensor([frame.model[0] / grid[1], frame.model[1] / grid[0]])
            model = (places + b) * step - places.new_tensor(frame.content[:2])
            return model / places.new_tensor(frame.scale) - a
        return (places + b) * places.new_tensor(frame.original) / places.new_tensor(self._shape(grid)) - a

    def _shape(self, grid: tuple[int, int]) -> tuple[int, int]:
        return (grid[1], grid[0]) if isinstance(self.size, str) else self.size

    def _to_lattice(self, points: Tensor, frame: Frame, grid: tuple[int, int]) -> Tensor:
        a, b = _SHIFTS[self.convention]
        if self.size == "cells":
            step = points.new_tensor([frame.model[0] / grid[1], frame.model[1] / grid[0]])
            model = (points + a) * points.new_tensor(frame.scale) + points.new_tensor(frame.content[:2])
            return model / step - b
        # Multiplied first, so that halves which snapping rounds to even stay exact.
        return (points + a) * points.new_tensor(self._shape(grid)) / points.new_tensor(frame.original) - b

    def _shown(self, places: Tensor, frame: Frame) -> Tensor:
        """The original pixels that positions of a resized picture show."""
        assert not isinstance(self.size, str)
        return (places + 0.5) * places.new_tensor(frame.original) / places.new_tensor(self.size) - 0.5
