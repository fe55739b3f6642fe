"""Scores that know how sure they are, from the units (pairs, pictures) they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from diffeat.evaluation.intervals import Interval, bootstrap, interval_of, resampled

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

    def resampled(self) -> np.ndarray:
        """Values with units drawn anew; scores over the same units are drawn alike, and can be compared."""
        return np.array([self.reduce(row) for row in resampled(self.units, replicates=_SAMPLES)])

    def interval(self) -> Interval:
        """Bootstrap interval."""
        return interval_of(self.resampled())

    def against(self, other: Score) -> Interval:
        """Interval of what this is above another score of the same units."""
        return bootstrap(self.units, lambda sums: [self.reduce(row) for row in sums], paired=other.units)


def ratio(sums: np.ndarray) -> float:
    """Percentage of the first sum in the second."""
    return 100 * float(sums[0] / max(sums[1], 1e-12))
