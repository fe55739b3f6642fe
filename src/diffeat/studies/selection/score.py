"""Scores that know how sure they are, from the units (pairs, pictures) they are made of."""

from __future__ import annotations

from collections.abc import Callable, Hashable
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
        groups: What each unit shares with others, such as the pictures of a pair (see :func:`bootstrap`).
    """

    units: np.ndarray
    reduce: Callable[[np.ndarray], float]
    groups: tuple[Hashable, ...] | None = None

    @property
    def value(self) -> float:
        return self.reduce(self.units.sum(0))

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.1f} [{low:.1f}, {high:.1f}]"

    def resampled(self, replicates: int = _SAMPLES) -> np.ndarray:
        """Values with units drawn anew; scores over the same units are drawn alike, and can be compared."""
        sums = resampled(self.units, groups=self.groups, replicates=replicates)
        return np.array([self.reduce(row) for row in sums])

    def interval(self) -> Interval:
        return interval_of(self.resampled())

    def against(self, other: Score) -> Interval:
        """Interval of what this is above another score of the same units."""
        return bootstrap(
            self.units, lambda sums: [self.reduce(row) for row in sums], groups=self.groups, paired=other.units
        )


def ratio(sums: np.ndarray) -> float:
    """Percentage of the first sum in the second."""
    return 100 * float(sums[0] / max(sums[1], 1e-12))
