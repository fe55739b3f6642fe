"""Exact depth and normals of a toy world that :mod:`diffeat.datasets.toyworld_spair` wrote.

They are not kept in files: what the rays meet is cast anew, from the world's seed and the picture's name, in a quarter
of the time that the picture takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.measured import Quantity, TargetDataset, TargetSample
from diffeat.datasets.pairs import parsed, read_json
from diffeat.datasets.toyworld import Toyworld
from diffeat.datasets.toyworld_labels import PAGE, pictures_of
from diffeat.datasets.toyworld_spair import index_of


@dataclass(frozen=True)
class ToyTarget(TargetSample):
    """Depth or normals of a toy picture; the backdrop has none.

    Attributes:
        file: The settings of the world.
        seed: Of the world.
        size: Of its pictures.
        index: Of the picture.
    """

    seed: int = 0
    size: int = 128
    index: int = 0

    def target(self) -> NDArray[np.float32]:
        """As of :class:`TargetSample`; depth is in the world's units."""
        surface = Toyworld(self.seed, self.size).surface(self.index, name=self.category)
        known = np.isfinite(surface.depth)
        values = surface.depth if self.quantity == "depth" else surface.normals
        return np.where(known, values, np.float32(np.nan))


def read_toyworld_surfaces(root: str | Path, split: str = "train", *, quantity: Quantity) -> TargetDataset:
    """Pictures with the depth or the normals of what stands before the backdrop.

    Raises:
        DatasetError: The folder is no toy world, or not complete.
        UnknownNameError: No such split.
    """
    pictures = pictures_of(root, split)
    stamp = Path(root) / "toyworld.json"
    seed, size = parsed(stamp, "toyworld", PAGE, lambda p: _settings(read_json(p)))
    samples = tuple(
        ToyTarget(image, stamp, quantity, 1.0, name, seed, size, parsed(image, "toyworld", PAGE, _index))
        for name, image in pictures
    )
    return TargetDataset(f"toyworld-{quantity}", split, samples, quantity)


def _settings(data: dict[str, Any]) -> tuple[int, int]:
    seed, size = int(data["seed"]), int(data["size"])
    if not (0 <= seed < 2**63 and 32 <= size <= 4096):
        raise ValueError("no seed and size of a toy world")
    return seed, size


def _index(image: Path) -> int:
    split, position, number = image.stem.split("_")
    return index_of(split, int(position), int(number))


_SPLITS = ("train", "val", "test")
_QUANTITIES: tuple[Quantity, ...] = ("depth", "normals")
CARDS = tuple(
    DatasetCard(
        f"toyworld-{quantity}",
        quantity,
        partial(read_toyworld_surfaces, quantity=quantity),
        _SPLITS,
        page=PAGE,
    )
    for quantity in _QUANTITIES
)
