"""A fixed bank of periodic noise tiles, the raw stuff of every surface and backdrop of the toy world.

Photographs have amplitude spectra near 1/f. Each tile is white noise shaped in the Fourier domain (so it repeats
without a seam) and then equalised to be uniform on [0, 1], which makes thresholds mean shares of area.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.toyworld.exact import cos, exp, log, normal, sin

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


def _fourier(real: NDArray[np.float64], imaginary: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """The discrete Fourier transform of a square tile along both axes, by halving."""
    for _ in range(2):
        a, b = real.T[None], imaginary.T[None]
        while len(a) < SIDE:
            half = a.shape[1] // 2
            angle = (np.arange(len(a)) * (np.pi / len(a)))[:, None, None]
            c, s = cos(angle), -sin(angle)
            turned_a, turned_b = c * a[:, half:] - s * b[:, half:], c * b[:, half:] + s * a[:, half:]
            a, b = a[:, :half], b[:, :half]
            a, b = np.concatenate([a + turned_a, a - turned_a]), np.concatenate([b + turned_b, b - turned_b])
        real, imaginary = a[:, 0], b[:, 0]
    return real, imaginary


@lru_cache(maxsize=1)
def bank() -> dict[str, NDArray[np.float32]]:
    """All tiles by name, float32 ``(SIDE, SIDE)`` in [0, 1]; made once per process from a constant seed."""
    rng = np.random.default_rng(20_24)
    frequency = (np.arange(SIDE) + SIDE // 2) % SIDE - SIDE / 2
    tiles = {}
    for name, (exponent, low, high, stretch) in SPECTRA.items():
        x, y = (frequency * np.sqrt(stretch))[None, :], (frequency / np.sqrt(stretch))[:, None]
        radius = np.sqrt(x * x + y * y)
        gain = np.where((radius >= low) & (radius <= high), exp(-exponent * log(np.maximum(radius, 1))), 0)
        real, imaginary = _fourier(normal(rng, 0, 1, (SIDE, SIDE)), np.zeros((SIDE, SIDE)))
        tiles[name] = _equalise(_fourier(real * gain, -imaginary * gain)[0])  # the conjugate's transform: the inverse
    tiles["cells"] = _cells(rng)
    tiles["ridges"] = 1 - np.abs(2 * tiles["cloud"] - 1)
    return tiles


def _cells(rng: np.random.Generator, count: int = 90) -> NDArray[np.float32]:
    """Distance to the nearest of ``count`` scattered points: scales, pebbles, leaves."""
    squares = np.full((SIDE, SIDE), np.inf)
    for point in rng.uniform(0, SIDE, (count, 2)):
        y, x = np.abs(np.arange(SIDE) - point[:, None])
        y, x = np.minimum(y, SIDE - y), np.minimum(x, SIDE - x)
        squares = np.minimum(squares, (y * y)[:, None] + x * x)
    return _equalise(squares)


def look_up(name: str, u: NDArray[np.floating], v: NDArray[np.floating]) -> NDArray[np.float32]:
    """The tile's value at coordinates given in tiles (the tile repeats with period 1)."""
    columns = (u * SIDE).astype(np.int32) & (SIDE - 1)
    rows = (v * SIDE).astype(np.int32) & (SIDE - 1)
    return bank()[name][rows, columns]
