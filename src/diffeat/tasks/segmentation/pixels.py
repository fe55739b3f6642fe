r"""Features at the pixels of a picture, without a feature map of the picture's size.

Bilinear enlargement U is linear, and so is whatever multiplies the channels of a pixel: :math:`W\,U(x) = U(Wx)`. A
classifier's first layer is therefore applied on the native grid of every activation, and only its few outputs are
enlarged and added up, some rows at a time. To train, single pixels are gathered from the native grids. Both equal
"resize everything to label size, concatenate" (half-pixel convention), in a fraction of the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diffeat.datasets.labelled import IGNORE
from diffeat.errors import InvalidValueError
from diffeat.features import FeatureMap
from diffeat.geometry import Frame
from diffeat.tasks.correspondence.axis import Axis
from diffeat.tasks.correspondence.lattice import Lattice


@dataclass(frozen=True)
class PictureMaps:
    """The maps of one picture, each on its own grid.

    Attributes:
        maps: (C_i, h_i, w_i), float32.
        frame: How the picture lies in the model's image.
        summed: Whether the maps are the parts of a projection, which add up, instead of standing side by side.
    """

    maps: tuple[Tensor, ...]
    frame: Frame
    summed: bool = False

    @classmethod
    def of(cls, features: FeatureMap, activations: Sequence[str] | None = None) -> PictureMaps:
        """The maps of a picture (some of them)."""
        names = list(activations) if activations is not None else list(features.activations)
        return cls(tuple(features[name].float().cpu() for name in names), features.frame)

    @property
    def channels(self) -> int:
        return self.maps[0].shape[0] if self.summed else sum(m.shape[0] for m in self.maps)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the picture."""
        return self.frame.original[1], self.frame.original[0]

    def axes(self, grid: tuple[int, int]) -> tuple[Axis, Axis]:
        """Where the rows and columns of the picture read a grid over the model image."""
        return Lattice("original").axes(self.frame, grid)

    def project(self, weight: Float[Tensor, "k c"]) -> PictureMaps:
        """A linear map of the channels, on the native grids."""
        parts = weight.split([m.shape[0] for m in self.maps], dim=1)
        maps = tuple(torch.einsum("kc,chw->khw", w, m) for w, m in zip(parts, self.maps, strict=True))
        return PictureMaps(maps, self.frame, summed=True)

    def rows(self, start: int, stop: int) -> Float[Tensor, "k rows width"]:
        """Rows of the picture at its own resolution; only for projections."""
        parts = []
        for values in self.maps:
            rows, columns = self.axes((values.shape[1], values.shape[2]))
            parts.append(columns.apply(rows.part(start, stop).apply(values, 1), 2))
        return reduce(add, parts)


class TrainingPixels:
    """The labelled pixels of some pictures, to draw batches of features from.

    Args:
        labels: Their label maps (H, W), one at a time.
        rare: A label with fewer pixels than this in a picture is ignored there.
        most: Pixels per picture, drawn once; all if ``None``.
        balanced: Draw as many of every label of a picture, as far as there are, instead of any pixels.

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
        self.pictures, self._y, self._x, self.labels = table
        present = self.labels.unique()
        if len(present) < 2:
            raise InvalidValueError(
                f"The training pictures hold {len(self.labels)} labelled pixels of {len(present)} classes; two classes "
                "at least are needed to tell them apart. Label more pictures, or check the ignored label."
            )
        self._tables = [_Table(pictures, i) for i in range(len(pictures[0].maps))]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def channels(self) -> int:
        return sum(t.channels for t in self._tables)

    def features(self, which: Int[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """Features of some of the pixels."""
        picture, y, x = self.pictures[which], self._y[which], self._x[which]
        return torch.cat([table.read(picture, y, x) for table in self._tables], dim=1)


class _Table:
    """One activation of all pictures, channels last, with the interpolation of every row and column looked up once."""

    def __init__(self, pictures: Sequence[PictureMaps], position: int) -> None:
        maps = [p.maps[position] for p in pictures]
        self.channels = maps[0].shape[0]
        h, w = max(m.shape[1] for m in maps), max(m.shape[2] for m in maps)
        self._values = torch.zeros(len(maps), h, w, self.channels)
        for k, values in enumerate(maps):
            self._values[k, : values.shape[1], : values.shape[2]] = values.permute(1, 2, 0)
        axes = [p.axes((m.shape[1], m.shape[2])) for p, m in zip(pictures, maps, strict=True)]
        self._rows = _padded([a[0] for a in axes])
        self._columns = _padded([a[1] for a in axes])

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
