"""Scores that know how sure they are, from the units (pairs, pictures) they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

_SAMPLES = 200


@dataclass(frozen=True)
class Score:
    """A number in percent.

    Attributes:
        units: (U, K) what each unit contributes; sums over units decide the value.
        reduce: From sums (K,) to the value.
    """

    units: np.ndarray
    reduce: Callable[[np.ndarray], float]

    @property
    def value(self) -> float:
        return self.reduce(self.units.sum(0))

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.1f} [{low:.1f}, {high:.1f}]"

    def resampled(self, samples: int = _SAMPLES, seed: int = 0) -> np.ndarray:
        """Values with units drawn anew; scores over the same units and seed are drawn alike, and can be compared."""
        rng = np.random.default_rng(seed)
        count = len(self.units)
        weights = rng.multinomial(count, np.full(count, 1 / count), size=samples)
        return np.array([self.reduce(row) for row in weights @ self.units])

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval."""
        low, high = np.nanquantile(self.resampled(), [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)


def ratio(sums: np.ndarray) -> float:
    """Percentage of the first sum in the second."""
    return 100 * float(sums[0] / max(sums[1], 1e-12))
