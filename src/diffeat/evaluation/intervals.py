r"""Confidence intervals by resampling what was measured.

A score is a function of sums over units: hits and counts of pairs, confusions of pictures. A replicate weights every
unit and sums again; the interval is between percentiles of the replicates' scores.

Units that share a picture do not vary independently, so groups are drawn, not units: of G groups, G with replacement,
and a unit weighs as often as its group was drawn. A unit may lie in several groups, such as a pair that depends on two
pictures, of which each lies in many pairs; it then weighs the product of its groups' counts,

.. math:: w_u = \prod_j c_{g_j(u)}, \qquad c \sim \mathrm{Multinomial}(G; 1/G, \dots)

(the pigeonhole bootstrap; Owen 2007, doi:10.1214/07-AOAS122), which is mildly conservative.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffeat.errors import InvalidValueError

#: Share of the whole that is added to every replicate of means over classes.
_TRACE = 1e-9
_AT_ONCE = 64  # replicates; their weights are (replicates, units)


class Interval(NamedTuple):
    """The ends of a confidence interval, in the score's unit."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"[{self.low:.1f}, {self.high:.1f}]"


def bootstrap(
    units: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], ArrayLike],
    *,
    groups: Sequence[Hashable] | None = None,
    paired: ArrayLike | None = None,
    replicates: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    over_classes: bool = False,
) -> Interval:
    """The interval of a score, or of the difference of two.

    Args:
        units: (n, k) what each unit adds to k sums.
        statistic: Scores (r,) of sums (r, k); NaN where a replicate says nothing.
        groups: The group of each unit, or a tuple of groups; each unit its own if not given.
        paired: (n, k) sums of another way to the same units: the interval is of the difference.
        replicates: How often to resample.
        confidence: Share of replicates inside.
        seed: Equal seeds give equal intervals.
        over_classes: Whether the score is a mean over classes: one that a replicate lacks then counts with its score
            in the whole. Left out, the interval of a set with rare classes would lie above its score.

    Raises:
        InvalidValueError: No unit, or units and groups that do not fit.

    Example:
        Hits and points of four pairs; the score is the share of hits.

        >>> pairs = [(3, 4), (1, 4), (4, 4), (2, 4)]
        >>> interval = bootstrap(pairs, lambda sums: 100 * sums[:, 0] / sums[:, 1])
        >>> 0 <= interval.low < 62.5 < interval.high <= 100
        True
    """
    table = np.asarray(units, dtype=np.float64)
    both = table if paired is None else np.concatenate([table, np.asarray(paired, dtype=np.float64)], axis=1)
    sums = resampled(both, groups=groups, replicates=replicates, seed=seed, over_classes=over_classes)
    scores = np.asarray(statistic(sums[:, : table.shape[1]]))
    if paired is not None:
        scores = scores - np.asarray(statistic(sums[:, table.shape[1] :]))
    return interval_of(scores, confidence)


def interval_of(scores: ArrayLike, confidence: float = 0.95) -> Interval:
    """The middle ``confidence`` of replicates' scores (r,)."""
    low, high = np.nanquantile(np.asarray(scores, dtype=np.float64), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high))


def resampled(
    units: ArrayLike,
    *,
    groups: Sequence[Hashable] | None = None,
    replicates: int = 1000,
    seed: int = 0,
    over_classes: bool = False,
) -> NDArray[np.float64]:
    """Sums (r, k) of the units (n, k) in every replicate; arguments and errors as of :func:`bootstrap`."""
    table = np.asarray(units, dtype=np.float64)
    sums: list[NDArray[np.float64]] = []
    for weights in _weights(len(table), groups, seed):
        sums.append(weights[weights.any(1)] @ table)  # a replicate of pairs may hold no whole pair
        if sum(map(len, sums)) >= replicates:
            break
    drawn = np.concatenate(sums)[:replicates]
    return drawn + _TRACE * table.sum(0) if over_classes else drawn


def _weights(count: int, groups: Sequence[Hashable] | None, seed: int) -> Iterator[NDArray[np.float64]]:
    """Weights of ``count`` units in some replicates at a time, without end."""
    if count == 0 or (groups is not None and len(groups) != count):
        raise InvalidValueError(f"A bootstrap takes units and as many groups, got {count} and {len(groups or ())}.")
    labels = [g if isinstance(g, tuple) else (g,) for g in (range(count) if groups is None else groups)]
    names = {name for label in labels for name in label}
    number = {name: i for i, name in enumerate(sorted(names, key=str))}
    columns = np.array([[number[name] for name in label] for label in labels]).T
    rng = np.random.default_rng(seed)
    while True:
        drawn = rng.multinomial(len(number), np.full(len(number), 1 / len(number)), size=_AT_ONCE)
        yield np.prod([drawn[:, column] for column in columns], axis=0).astype(np.float64)
