r"""Features at the pixels of a picture, without a feature map of the picture's size.

Bilinear enlargement U is linear, and so is whatever multiplies the channels of a pixel: :math:`W\,U(x) = U(Wx)`. A
classifier's first layer is therefore applied on the native grid of every activation, and only its few outputs are
enlarged and added up, some rows at a time. To train, single pixels are gathered from the native grids. Both equal
"resize everything to label size, concatenate" (half-pixel convention), in a fraction of the memory.

Generic Diffusion Feature's procedure brings pictures to a square of 256² and resizes twice: the maps of one extractor
by nearest neighbour (PyTorch's) to the width W of the widest, W×W, then bilinearly to the square. The first step only
repeats cells, so that here too nothing is enlarged: position i of the W reads the cell that it repeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffeat.datasets.labelled import IGNORE
from diffeat.errors import InvalidValueError
from diffeat.features import FeatureMap
from diffeat.geometry import Frame
from diffeat.geometry.nearest import nearest_cells
from diffeat.tasks.correspondence.axis import Axis
from diffeat.tasks.correspondence.lattice import Lattice


@dataclass(frozen=True)
class GridMap:
    """A map (C, h, w), float32, and how the rows and columns of a picture read it."""

    values: Tensor
    rows: Axis
    columns: Axis

    def to(self, device: torch.device) -> GridMap:
        """The same on another device."""
        return GridMap(self.values.to(device), self.rows.to(device), self.columns.to(device))

    def read(self, start: int, stop: int) -> Float[Tensor, "c rows width"]:
        """Some rows of the picture; the few rows of cells under them are enlarged to its width first."""
        part = self.rows.part(start, stop)
        first = int(part.low.min())
        cells = self.values[:, first : int(part.high.max()) + 1]
        moved = Axis(part.low - first, part.high - first, part.weight, cells.shape[1])
        return moved.apply(self.columns.apply(cells, 2), 1)

    def corners(self, y: Int[Tensor, " n"], x: Int[Tensor, " n"]) -> tuple[Int[Tensor, "4 n"], Float[Tensor, "4 n"]]:
        """The four cells, counted in reading order, that pixels of the picture read, and how much of each."""
        top, bottom, f = self.rows.low[y], self.rows.high[y], self.rows.weight[y]
        left, right, e = self.columns.low[x], self.columns.high[x], self.columns.weight[x]
        width = self.values.shape[2]
        cells = torch.stack([top * width + left, top * width + right, bottom * width + left, bottom * width + right])
        return cells, torch.stack([(1 - f) * (1 - e), (1 - f) * e, f * (1 - e), f * e])


@dataclass(frozen=True)
class PictureMaps:
    """The maps of one picture, each on its own grid.

    Attributes:
        summed: Whether the maps are the parts of a projection, which add up, instead of standing side by side.
    """

    maps: tuple[GridMap, ...]
    summed: bool = False

    @classmethod
    def over(
        cls,
        maps: Iterable[Tensor],
        frame: Frame,
        square: int | None = None,
        device: torch.device | str | None = "cpu",
    ) -> PictureMaps:
        """Maps (C, h, w) over the model image of ``frame``, read at the picture's own pixels.

        Args:
            device: To read them on; where they are if ``None``.
            square: Side of the square that the picture is brought to instead, as in the module's second procedure; the
                maps are those of one extractor.
        """
        values = [m.to(device or m.device, torch.float32) for m in maps]
        lattice = Lattice("original" if square is None else (square, square))
        side = max(m.shape[2] for m in values)
        parts = []
        for m in values:
            grid = (m.shape[1], m.shape[2])
            axes = lattice.axes(frame, grid if square is None else (side, side))
            if square is not None:
                axes = _repeated(axes[0], grid[0]), _repeated(axes[1], grid[1])
            parts.append(GridMap(m, *(axis.to(m.device) for axis in axes)))
        return cls(tuple(parts))

    @classmethod
    def of(
        cls, features: FeatureMap, activations: Sequence[str] | None = None, square: int | None = None
    ) -> PictureMaps:
        """The maps of a picture (some of them); ``square`` as in :meth:`over`."""
        names = list(activations) if activations is not None else list(features.activations)
        return cls.over([features[name] for name in names], features.frame, square)

    def to(self, device: torch.device) -> PictureMaps:
        """The same on another device."""
        return PictureMaps(tuple(m.to(device) for m in self.maps), self.summed)

    def __add__(self, other: PictureMaps) -> PictureMaps:
        """The maps of two extractors side by side, of one picture at one size."""
        return PictureMaps(self.maps + other.maps)

    @property
    def channels(self) -> int:
        return self.maps[0].values.shape[0] if self.summed else sum(m.values.shape[0] for m in self.maps)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) that the maps are read at."""
        return len(self.maps[0].rows), len(self.maps[0].columns)

    def project(self, weight: Float[Tensor, "k c"]) -> PictureMaps:
        """A linear map of the channels, on the native grids."""
        parts = weight.split([m.values.shape[0] for m in self.maps], dim=1)
        maps = (
            replace(m, values=torch.einsum("kc,chw->khw", w, m.values)) for w, m in zip(parts, self.maps, strict=True)
        )
        return PictureMaps(tuple(maps), summed=True)

    def rows(self, start: int, stop: int) -> Float[Tensor, "k rows width"]:
        """Rows of the picture; only for projections."""
        return reduce(add, (m.read(start, stop) for m in self.maps))

    def at(self, y: Int[Tensor, " n"], x: Int[Tensor, " n"]) -> Float[Tensor, "n k"]:
        """Some pixels; only for projections."""

        def read(m: GridMap) -> Tensor:
            cells, shares = m.corners(y, x)
            return (m.values.flatten(1)[:, cells] * shares.to(m.values.dtype)).sum(1).T

        return reduce(add, map(read, self.maps))


def _repeated(axis: Axis, cells: int) -> Axis:
    """How positions that read an enlargement by nearest neighbour read the row of ``cells`` that was enlarged."""
    cell = torch.from_numpy(nearest_cells(axis.cells, cells, "pytorch"))
    return Axis(cell[axis.low], cell[axis.high], axis.weight, cells)


class TrainingPixels:
    """The labelled pixels of some pictures, to draw batches of features from.

    Args:
        labels: Their label maps (H, W), one at a time.
        rare: A label with fewer pixels than this in a picture is ignored there.
        most: Pixels per picture, drawn once; all if ``None``.
        balanced: Draw as many of every label of a picture, as far as there are, instead of any pixels.

    Attributes:
        maps: Of the pictures.
        pictures: (n,) the picture that each pixel lies in; ``y``, ``x`` and ``labels`` are its place and label.

    Raises:
        InvalidValueError: No labelled pixel, or one label only: there is nothing to tell apart.
    """

    def __init__(
        self,
        pictures: Sequence[PictureMaps],
        labels: Iterable[np.ndarray],
        *,
        rare: int = 20,
        most: int | None = None,
        balanced: bool = False,
        seed: int = 0,
    ) -> None:
        rng = np.random.default_rng(seed)
        places = []
        for k, truth in enumerate(labels):
            truth = without_rare(truth, rare)
            y, x = np.nonzero(truth != IGNORE)
            if most is not None and len(y) > most:
                some = _drawn(truth[y, x], most, balanced, rng)
                y, x = y[some], x[some]
            places.append(np.stack([np.full(len(y), k), y, x, truth[y, x]]))
        table = torch.from_numpy(np.concatenate(places, axis=1)) if places else torch.zeros(4, 0, dtype=torch.long)
        self.maps = tuple(pictures)
        self.pictures, self.y, self.x, self.labels = table
        present = self.labels.unique()
        if len(present) < 2:
            raise InvalidValueError(
                f"The training pictures hold {len(self.labels)} labelled pixels of {len(present)} classes; two classes "
                "at least are needed to tell them apart. Label more pictures, or check the ignored label."
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return self.maps[0].channels

    def to(self, device: torch.device) -> TrainingPixels:
        """The same with its features on another device."""
        if device == self.labels.device:
            return self
        moved = copy(self)
        for name in ("pictures", "y", "x", "labels"):
            setattr(moved, name, getattr(self, name).to(device))
        moved._tables = [table.to(device) for table in self._tables]
        return moved

    def of_picture(self, number: int) -> slice:
        """Which of the pixels lie in a picture: they stand in the pictures' order."""
        ends = torch.searchsorted(self.pictures, torch.tensor([number, number + 1]))
        return slice(int(ends[0]), int(ends[1]))

    @cached_property
    def _tables(self) -> list[_Table]:
        return [_Table(self.maps, i) for i in range(len(self.maps[0].maps))]

    def features(self, which: Int[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """Features of some of the pixels."""
        picture, y, x = self.pictures[which], self.y[which], self.x[which]
        return torch.cat([table.read(picture, y, x) for table in self._tables], dim=1)


class _Table:
    """One activation of all pictures, channels last, with the interpolation of every row and column looked up once."""

    def __init__(self, pictures: Sequence[PictureMaps], position: int) -> None:
        maps = [p.maps[position] for p in pictures]
        self.channels = maps[0].values.shape[0]
        self._values = torch.zeros(len(maps), *(max(m.values.shape[d] for m in maps) for d in (1, 2)), self.channels)
        for k, m in enumerate(maps):
            self._values[k, : m.values.shape[1], : m.values.shape[2]] = m.values.permute(1, 2, 0)
        self._rows = _padded([m.rows for m in maps])
        self._columns = _padded([m.columns for m in maps])

    def to(self, device: torch.device) -> _Table:
        moved = copy(self)
        moved._values = self._values.to(device)
        moved._rows, moved._columns = (tuple(t.to(device) for t in axis) for axis in (self._rows, self._columns))
        return moved

    def read(self, picture: Tensor, y: Tensor, x: Tensor) -> Tensor:
        y0, y1, f = (t[picture, y] for t in self._rows)
        x0, x1, e = (t[picture, x] for t in self._columns)
        e, f = e[:, None].float(), f[:, None].float()
        above = torch.lerp(self._values[picture, y0, x0], self._values[picture, y0, x1], e)
        below = torch.lerp(self._values[picture, y1, x0], self._values[picture, y1, x1], e)
        return torch.lerp(above, below, f)


def _padded(axes: Sequence[Axis]) -> tuple[Tensor, Tensor, Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    low = pad([a.low for a in axes], batch_first=True)
    high = pad([a.high for a in axes], batch_first=True)
    return low, high, pad([a.weight for a in axes], batch_first=True)


def _drawn(labels: np.ndarray, most: int, balanced: bool, rng: np.random.Generator) -> np.ndarray:
    order = rng.permutation(len(labels))
    if not balanced:
        return order[:most]
    share = max(1, most // len(np.unique(labels)))
    return np.concatenate([order[labels[order] == label][:share] for label in np.unique(labels)])


def without_rare(labels: np.ndarray, least: int) -> np.ndarray:
    """The label map with labels of fewer than ``least`` pixels ignored."""
    values, counts = np.unique(labels, return_counts=True)
    return np.where(np.isin(labels, values[counts < least]), IGNORE, labels)
