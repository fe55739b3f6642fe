"""How well pixels of held-out pictures are predicted: sums over each picture, and what follows from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from diffeat.evaluation.intervals import Interval, interval_of, resampled
from diffeat.evaluation.result import Table
from diffeat.tasks.segmentation.confusion import Confusion, class_iou

_DELTA = 1.25
_ANGLES = (11.25, 22.5, 30.0)


@dataclass(frozen=True)
class Scores(ABC):
    """Sums over some pictures.

    Attributes:
        sums: (pictures, …).
    """

    sums: NDArray[np.float64]
    classes: tuple[str, ...] = field(default=(), kw_only=True)
    #: Name of the number that is quoted, and whether more of it is better.
    quoted: ClassVar[str]
    rises: ClassVar[bool] = True
    #: Decimals of that number.
    digits: ClassVar[int] = 1

    def __add__(self, other: Self) -> Self:
        return type(self)(np.concatenate([self.sums, other.sums]), classes=self.classes)

    @abstractmethod
    def statistic(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """The number that is quoted, of sums over pictures (…, k)."""

    @property
    def value(self) -> float:
        """The number that is quoted."""
        return float(self.statistic(self.sums.sum(0)))

    @property
    def merit(self) -> float:
        """:attr:`value`, so that more is better."""
        return self.value if self.rises else -self.value

    def interval(self) -> Interval:
        """Of :attr:`value`, pictures drawn anew."""
        flat = resampled(self.sums.reshape(len(self.sums), -1)).reshape(-1, *self.sums.shape[1:])
        return interval_of(self.statistic(flat))

    @abstractmethod
    def table(self) -> Table:
        """All numbers; the last row sums up."""

    def __str__(self) -> str:
        low, high = self.interval()
        value, least, most = (f"{v:.{self.digits}f}" for v in (self.value, low, high))
        return f"{self.quoted} {value} [{least}, {most}]"


class LabelScores(Scores):
    """Confusions; the mean IoU in percent is over the classes that occur or are predicted."""

    quoted = "mIoU"

    @classmethod
    def of(cls, known: NDArray, predicted: NDArray, classes: Sequence[str]) -> Self:
        """Of one picture."""
        confusion = Confusion(len(classes))
        confusion.add(known, np.asarray(predicted))
        return cls(confusion.counts[None].astype(np.float64), classes=tuple(classes))

    def statistic(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return 100 * np.nanmean(class_iou(sums), axis=-1)

    @property
    def accuracy(self) -> float:
        """Share of right pixels, in percent."""
        counts = self.sums.sum(0)
        return 100 * float(np.trace(counts) / max(1, counts.sum()))

    @property
    def iou(self) -> NDArray[np.float64]:
        """Of every class, in percent; NaN where it neither occurs nor is predicted."""
        return 100 * class_iou(self.sums.sum(0))

    def table(self) -> Table:
        rows = [[n, f"{v:.2f}"] for n, v in zip(self.classes, self.iou, strict=True) if v == v]
        return ["class", "IoU"], [*rows, ["pixel accuracy", f"{self.accuracy:.2f}"], ["mean IoU", f"{self.value:.2f}"]]


class DepthScores(Scores):
    """Over all known pixels: the mean relative error, the root of the mean squared error, and shares within factors of
    1.25, its square and its cube (Eigen et al., NeurIPS 2014)."""

    quoted, rises, digits = "AbsRel", False, 3

    @classmethod
    def of(cls, known: NDArray, predicted: NDArray) -> Self:
        """Of one picture."""
        seen = ~np.isnan(known)
        truth, guess = known[seen].astype(np.float64), np.maximum(np.asarray(predicted)[seen], 1e-9).astype(np.float64)
        factor = np.maximum(truth / guess, guess / truth)
        within = [(factor < _DELTA**k).sum() for k in (1, 2, 3)]
        return cls(
            np.array([[len(truth), (np.abs(truth - guess) / truth).sum(), ((truth - guess) ** 2).sum(), *within]])
        )

    def statistic(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums[..., 1] / np.maximum(sums[..., 0], 1)

    def table(self) -> Table:
        count, _, squared, *within = self.sums.sum(0)
        rows = [["RMSE", f"{np.sqrt(squared / max(count, 1)):.4f}"]]
        rows += [
            [f"δ < 1.25{k}", f"{100 * w / max(count, 1):.2f}"] for k, w in zip(("", "²", "³"), within, strict=True)
        ]
        return ["number", "value"], [*rows, ["AbsRel", f"{self.value:.4f}"]]


class NormalScores(Scores):
    """Over all known pixels: the mean angle in degrees, and shares below three angles."""

    quoted, rises = "mean angle", False

    @classmethod
    def of(cls, known: NDArray, predicted: NDArray) -> Self:
        """Of one picture."""
        seen = ~np.isnan(known).any(0)
        truth, guess = known[:, seen].astype(np.float64), np.asarray(predicted, np.float64)[:, seen]
        cosine = (truth * guess).sum(0) / np.maximum(np.linalg.norm(guess, axis=0), 1e-9)
        angles = np.degrees(np.arccos(cosine.clip(-1, 1)))
        return cls(np.array([[len(angles), angles.sum(), *((angles < a).sum() for a in _ANGLES)]]))

    def statistic(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return sums[..., 1] / np.maximum(sums[..., 0], 1)

    def table(self) -> Table:
        count, _, *within = self.sums.sum(0)
        rows = [[f"below {a}°", f"{100 * w / max(count, 1):.2f}"] for a, w in zip(_ANGLES, within, strict=True)]
        return ["number", "value"], [*rows, ["mean angle", f"{self.value:.2f}"]]
