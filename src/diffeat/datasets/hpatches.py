"""HPatches (Balntas et al., arXiv:1704.05939): sequences of six pictures of a plane, and homographies between them.

Layout: folders ``i_*`` (the light changes) and ``v_*`` (the viewpoint does), each with ``1.ppm`` to ``6.ppm`` and
``H_1_2`` to ``H_1_6``, which take pixel indices of the first picture to the others. It is read in two ways: as pairs
with their homography, which one is to be estimated (``hpatches``), and as pairs with points drawn evenly from the
pixels that both pictures show, which are to be found (``hpatches-points``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.card import DatasetCard, Samples
from diffeat.datasets.geometric import planar_pair
from diffeat.datasets.pairs import PairDataset, Points, as_pixel, checked, need, parsed, read_lines
from diffeat.errors import DatasetError

NAME, PAGE = "HPatches", "https://github.com/hpatches/hpatches-dataset"
SPLITS = ("all", "i", "v")


@dataclass(frozen=True)
class PlanarPair:
    """Two pictures of a plane.

    Attributes:
        name: ``<sequence>-1-<number>``.
        source: The first picture of the sequence.
        target: Another.
        homography: Rows of the matrix that takes pixel indices (x, y, 1) of the source to the target.
        category: ``i`` or ``v``: what changes.
        source_points: Key points (x, y) in pixel indices, ``None`` where none are given.
        target_points: Likewise; they do not belong to the source's one by one.
    """

    name: str
    source: Path
    target: Path
    homography: tuple[tuple[float, ...], ...]
    category: str
    source_points: Points | None = None
    target_points: Points | None = None

    @property
    def sequence(self) -> str:
        """Name of the folder."""
        return self.source.parent.name


@dataclass(frozen=True)
class PlanarDataset(Samples[PlanarPair]):
    """Pairs of pictures of planes."""

    name: str
    split: str
    samples: tuple[PlanarPair, ...]
    notes: tuple[str, ...] = ()
    _word = "pairs"


def read_hpatches(root: str | Path, split: str = "all", keypoints: str | Path | None = None) -> PlanarDataset:
    """Pairs and their homographies.

    Args:
        root: The folder ``hpatches-sequences-release``.
        split: ``all``, ``i`` or ``v``.
        keypoints: Folder with key points of every picture, ``<sequence>-<number>.kp``, x and y in each line.

    Raises:
        DatasetError: No sequence, or one that is incomplete; names the file.
    """

    @cache
    def points(image: Path) -> Points | None:
        if keypoints is None:
            return None
        file = Path(keypoints) / f"{image.parent.name}-{image.stem}.kp"
        return tuple(parsed(file, "Key points of HPatches", PAGE, lambda p: read_lines(p, _point)))

    pairs = tuple(
        PlanarPair(name, one, other, tuple(map(tuple, truth.tolist())), name[0], points(one), points(other))
        for name, one, other, truth in _planes(Path(root), split)
    )
    return PlanarDataset("hpatches", split, pairs)


def read_hpatches_points(root: str | Path, split: str = "all", points: int = 200, seed: int = 0) -> PairDataset:
    """Pairs with points whose true places are known; arguments and errors as of :func:`read_hpatches`."""
    pairs = [
        planar_pair(name, one, other, truth, points, seed, category=name[0])
        for name, one, other, truth in _planes(Path(root), split)
    ]
    return PairDataset("hpatches-points", split, Path(root), checked(pairs, NAME, PAGE, Path(root)))


def _planes(root: Path, split: str) -> Iterator[tuple[str, Path, Path, NDArray[np.float64]]]:
    folder = need(root, NAME, PAGE)
    if split not in SPLITS:
        raise DatasetError(f"HPatches has the splits all, i and v, not {split!r}.")
    wanted = re.compile(r"[iv]_.+" if split == "all" else f"{split}_.+")
    sequences = sorted(p for p in folder.iterdir() if p.is_dir() and wanted.fullmatch(p.name))
    if not sequences:
        raise DatasetError(f"There is no sequence (folder i_… or v_…) in {folder}. HPatches comes from {PAGE}")
    for sequence in sequences:
        for k in range(2, 7):
            truth = parsed(sequence / f"H_1_{k}", NAME, PAGE, _matrix)
            one, other = (need(sequence / f"{i}.ppm", NAME, PAGE) for i in (1, k))
            yield f"{sequence.name}-1-{k}", one, other, truth


def _matrix(path: Path) -> NDArray[np.float64]:
    rows = read_lines(path, lambda words: [float(v) for v in words])
    matrix = np.array([v for row in rows for v in row]).reshape(3, 3)
    if not np.isfinite(matrix).all():
        raise ValueError("the homography holds NaN or infinity")
    return matrix


def _point(words: list[str]) -> tuple[float, float]:
    return as_pixel(words[0]), as_pixel(words[1])


CARD = DatasetCard(
    "hpatches",
    "homographies",
    read_hpatches,
    SPLITS,
    scored="all",
    page=PAGE,
    options={"keypoints": "Folder with key points, SEQUENCE-NUMBER.kp (x y in each line); else they are detected."},
)
POINTS_CARD = DatasetCard(
    "hpatches-points", "pairs", read_hpatches_points, SPLITS, scored="all", protocol="geometry", page=PAGE
)
