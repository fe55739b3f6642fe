"""Training examples: pairs whose points lie on both pictures, in the order of a seed, mirrored or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffeat.datasets.pairs import PairDataset, PointPair
from diffeat.errors import DatasetError
from diffeat.geometry import Frame
from diffeat.tasks.correspondence.flip import mirrored_points
from diffeat.tasks.correspondence.lattice import Convention, Lattice
from diffeat.training.hyperfeatures.maps import MapSource, PictureMaps


@dataclass(frozen=True)
class Example:
    """One pair to learn from, with points (n, 2) as (x, y) in original pixels of source and target."""

    name: str
    maps: tuple[PictureMaps, PictureMaps]
    points: tuple[Tensor, Tensor]


class Examples:
    """Examples by number: a pure function of the seed, so that a resumed run sees what it would have seen.

    Args:
        seed: Of the order; each pass over the pairs has its own. The first is that of the reference for its seed 0.
        flip: Share of examples in which both pictures are mirrored.
        mirrored: Path of the mirrored copy of each picture, for ``flip``.
        points: Whether pairs without points are left out.
    """

    def __init__(
        self,
        pairs: PairDataset,
        source: MapSource,
        seed: int,
        flip: float = 0.0,
        mirrored: Mapping[Path, Path] | None = None,
        points: bool = True,
    ) -> None:
        self.pairs = usable_pairs(pairs, points)
        self._source, self._seed, self._flip, self._mirrored = source, seed, flip, mirrored or {}
        self._orders: dict[int, np.ndarray] = {}

    def __getitem__(self, number: int) -> Example:
        """The example of this number, from 0, without end."""
        turn, place = divmod(number, len(self.pairs))
        if turn not in self._orders:
            self._orders = {turn: np.random.RandomState(self._seed + turn).permutation(len(self.pairs))}
        pair = self.pairs[int(self._orders[turn][place])]
        flip = self._flip > 0 and bool(np.random.default_rng((self._seed, number)).random() < self._flip)
        paths = [self._mirrored[p] if flip else p for p in (pair.source, pair.target)]
        maps = (self._source.maps(paths[0]), self._source.maps(paths[1]))
        both = pair.source_points, pair.target_points
        one, other = (torch.tensor(p, dtype=torch.float64).view(-1, 2) for p in both)
        if flip:
            one, other = (mirrored_points(p, m.frame.original[0]) for p, m in zip((one, other), maps, strict=True))
        return Example(pair.name + (" mirrored" if flip else ""), maps, (one, other))


def usable_pairs(pairs: PairDataset, points: bool = True) -> list[PointPair]:
    """The pairs with points to learn from; all whose points are numbers, without ``points``."""
    usable = [
        pair
        for pair in pairs
        if (pair.source_points or not points) and np.isfinite([*pair.source_points, *pair.target_points]).all()
    ]
    if not usable:
        raise DatasetError(
            f"The training set is empty: {pairs.name} {pairs.split} has {len(pairs)} pairs, none of them with points "
            "in both pictures. Check the split, or draw more pictures."
        )
    return usable


def points_in_cells(points: Tensor, frame: Frame, grid: tuple[int, int], convention: Convention) -> Tensor:
    """Points (x, y) of the original picture in cells of a grid over the model's image."""
    return Lattice("cells", convention=convention).source_cells(points, frame, grid)
