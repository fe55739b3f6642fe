"""A fixed bank of periodic noise tiles, the raw stuff of every surface and backdrop of the toy world.

Photographs have amplitude spectra near 1/f. Each tile is white noise shaped in the Fourier domain (so it repeats
without a seam) and then equalised to be uniform on [0, 1], which makes thresholds mean shares of area.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SIDE = 256
#: name -> (spectral exponent, lowest and highest frequency kept in cycles per tile, stretch of the x axis)
SPECTRA: dict[str, tuple[float, float, float, float]] = {
    "pink": (1.0, 1.0, 128.0, 1.0),
    "cloud": (1.7, 1.0, 128.0, 1.0),
    "smooth": (2.4, 1.0, 24.0, 1.0),
    "blobs": (0.0, 5.0, 9.0, 1.0),
    "grain": (0.3, 16.0, 128.0, 1.0),
    "fur": (0.8, 3.0, 128.0, 6.0),
    "ripple": (1.0, 2.0, 90.0, 0.25),
    "patch": (1.2, 2.0, 12.0, 1.0),
}


def _equalise(tile: NDArray[np.float64]) -> NDArray[np.float32]:
    ranks = np.empty(tile.size, np.float32)
    ranks[np.argsort(tile, axis=None, kind="stable")] = np.linspace(0, 1, tile.size, dtype=np.float32)
    return ranks.reshape(tile.shape)


@lru_cache(maxsize=1)
def bank() -> dict[str, NDArray[np.float32]]:
    """All tiles by name, float32 ``(SIDE, SIDE)`` in [0, 1]; made once per process from a constant seed."""
    rng = np.random.default_rng(20_24)
    fy = np.fft.fftfreq(SIDE, 1 / SIDE)[:, None]
    fx = np.fft.rfftfreq(SIDE, 1 / SIDE)[None, :]
    tiles = {}
    for name, (exponent, low, high, stretch) in SPECTRA.items():
        radius = np.hypot(fx * stretch**0.5, fy / stretch**0.5)
        gain = np.where((radius >= low) & (radius <= high), np.maximum(radius, 1) ** -exponent, 0)
        white = np.fft.rfft2(rng.standard_normal((SIDE, SIDE)))
        tiles[name] = _equalise(np.fft.irfft2(white * gain, s=(SIDE, SIDE)))
    tiles["cells"] = _cells(rng)
    tiles["ridges"] = 1 - np.abs(2 * tiles["cloud"] - 1)
    return tiles


def _cells(rng: np.random.Generator, count: int = 90) -> NDArray[np.float32]:
    """Distance to the nearest of ``count`` scattered points: scales, pebbles, leaves."""
    from scipy.spatial import KDTree

    points = rng.uniform(0, SIDE, (count, 2))
    y, x = np.mgrid[:SIDE, :SIDE]
    distance, _ = KDTree(points, boxsize=SIDE).query(np.stack([y, x], -1).reshape(-1, 2))
    return _equalise(distance.reshape(SIDE, SIDE))


def look_up(name: str, u: NDArray[np.floating], v: NDArray[np.floating]) -> NDArray[np.float32]:
    """The tile's value at coordinates given in tiles (the tile repeats with period 1)."""
    columns = (u * SIDE).astype(np.int32) & (SIDE - 1)
    rows = (v * SIDE).astype(np.int32) & (SIDE - 1)
    return bank()[name][rows, columns]
