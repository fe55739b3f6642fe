r"""From paired shifts to a verdict: helps, harmless, hurts, or cannot tell.

A technique and the base are measured on the same pictures with the same latents and the same noise, so that they are
paired. With :math:`b_i, x_i` the mean shifts of picture i over seeds, the *gain* is the relative reduction

.. math:: g = 1 - \frac{\sum_i x_i}{\sum_i b_i}

(1: no shift left, 0: as the base, negative: more shift). Its interval is a bootstrap over pictures, whole pictures with
all their seeds (seeds of one picture are not independent). Percentiles are widened as Student's t asks for few pictures
(Hesterberg 2015, "expanded percentile").

With confidence 1 − α, a true gain of 0 is called *helps* with probability α/2 and *hurts* likewise, as far as the
bootstrap holds (measured where every answer is known, see ``docs/content-shift.md``); other true gains are mistaken
less often. The relevance ``margin`` is the gain that is too small to matter; the
first of these that holds is the verdict:

1. **harmless** if the whole interval lies within ±margin, be it above or below 0;
2. **helps** if the interval lies above 0, **hurts** if below;
3. **harmless** if the interval excludes a loss of more than the margin;
4. **cannot tell** otherwise, with the number of pictures that would probably do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffeat.errors import InvalidValueError
from diffeat.evaluation.intervals import bootstrap

Call = Literal["helps", "harmless", "hurts", "cannot tell"]

_RESAMPLES = 4000
_REASONABLE = 20_000


@dataclass(frozen=True)
class Verdict:
    """What can be said about a technique.

    Attributes:
        gain: Relative reduction of the shift.
        wins: Share of pictures on which it has less shift than the base (ties count half).
        needed: Pictures that would probably settle it (``cannot tell`` only; none where no reasonable number would).
        base: Mean shift of the base.
    """

    call: Call
    gain: float
    low: float
    high: float
    wins: float
    pictures: int
    base: float
    needed: int | None = None

    def __str__(self) -> str:
        text = f"{self.call} with {self.pictures} images" if self.call == "cannot tell" else self.call
        more = f"; about {self.needed} images would do" if self.needed else ""
        return f"{text} (gain {self.gain:+.1%}, {self.low:+.1%} to {self.high:+.1%}{more})"

    def short(self) -> str:
        """For the cell of a table."""
        more = f", ~{self.needed} images" if self.needed else ""
        return f"{self.call} {self.gain:+.1%} [{self.low:+.1%}, {self.high:+.1%}]{more}"


def judge(base: ArrayLike, technique: ArrayLike, *, confidence: float = 0.95, margin: float = 0.02) -> Verdict:
    """Compare paired shifts.

    Args:
        base: Shifts of the base, (pictures, seeds) or (pictures,).
        technique: Of the technique, at the same places.

    Raises:
        InvalidValueError: If the shapes differ, there are fewer than two pictures, or the base has no shift at all.
    """
    b, x = _paired(base, technique)
    if not 0.5 <= confidence < 1 or margin < 0:
        raise InvalidValueError(
            f"Confidence is 0.5 to below 1 and the margin not negative, got {confidence}, {margin}."
        )
    gain = 1 - x.sum() / b.sum()
    low, high = _interval(b, x, confidence)
    call = _call(low, high, margin)
    needed = _needed(gain, low, high, margin, len(b)) if call == "cannot tell" else None
    wins = float(np.mean((x < b) + 0.5 * (x == b)))
    return Verdict(call, float(gain), low, high, wins, len(b), float(b.mean()), needed)


def _paired(base: ArrayLike, technique: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    b, x = np.asarray(base, np.float64), np.asarray(technique, np.float64)
    if b.shape != x.shape or b.ndim not in (1, 2):
        raise InvalidValueError(f"Paired shifts have one shape (pictures, seeds), got {b.shape} and {x.shape}.")
    if not (np.isfinite(b).all() and np.isfinite(x).all()):
        raise InvalidValueError("Shifts must be finite numbers.")
    if b.ndim == 2:
        b, x = b.mean(1), x.mean(1)
    if len(b) < 2:
        raise InvalidValueError("A verdict needs at least two pictures.")
    if b.sum() <= 0:
        raise InvalidValueError("The base has no shift at all, so there is nothing to reduce; measure at higher noise.")
    return b, x


def _interval(b: NDArray, x: NDArray, confidence: float) -> tuple[float, float]:
    from scipy.stats import norm, t

    n = len(b)
    tail = (1 - confidence) / 2
    tail = float(norm.cdf(math.sqrt(n / (n - 1)) * t.ppf(tail, n - 1)))
    return bootstrap(
        np.stack([b, x], axis=1),
        lambda sums: 1 - sums[:, 1] / np.maximum(sums[:, 0], 1e-300),
        replicates=_RESAMPLES,
        confidence=1 - 2 * tail,
    )


def _call(low: float, high: float, margin: float) -> Call:
    if -margin <= low and high <= margin:
        return "harmless"
    if low > 0:
        return "helps"
    if high < 0:
        return "hurts"
    return "harmless" if low >= -margin else "cannot tell"


def _needed(gain: float, low: float, high: float, margin: float, n: int) -> int | None:
    """Intervals shrink with the root of the number: how many until the nearest decision is reached."""
    half = (high - low) / 2
    distance = max(abs(gain), gain + margin, 1e-9)
    needed = max(n + 1, math.ceil(n * (half / distance) ** 2 * 1.1))
    return needed if needed <= _REASONABLE else None
