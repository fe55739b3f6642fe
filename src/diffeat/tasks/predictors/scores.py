"""How well held-out pictures are predicted: sums over each picture, and the numbers that follow from them.

Sums of several pictures, of several parts of a set, add up; intervals draw pictures anew. A target's scores are a class
and a line in :data:`SCORES`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from diffeat.evaluation.intervals import Interval, interval_of, resampled
from diffeat.evaluation.result import Table
from diffeat.tasks.segmentation.boundary import boundary_counts, boundary_f
from diffeat.tasks.segmentation.confusion import Confusion

_DELTA = 1.25
_ANGLES = (11.25, 22.5, 30.0)
Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Scores(ABC):
    """Sums over some pictures.

    Attributes:
        sums: (pictures, …).
        classes: Their names, where there are any.
    """

    sums: Sums
    classes: tuple[str, ...] = field(default=(), kw_only=True)
    #: How the numbers come about, for a reader of them.
    told: ClassVar[str]
    #: Whether more of the number that is quoted is better.
    rises: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def read(cls, sample: Any, data: Any) -> NDArray:
        """What is known of a picture of a dataset: (…, H, W) of its pixels, or its class."""

    @classmethod
    @abstractmethod
    def of(cls, known: NDArray, predicted: NDArray, classes: Sequence[str] = ()) -> Self:
        """Of one picture."""

    @staticmethod
    @abstractmethod
    def numbers(sums: Sums) -> dict[str, Sums]:
        """Of sums over pictures (n, …), each (n,); the one that is quoted comes first."""

    def __add__(self, other: Self) -> Self:
        return type(self)(np.concatenate([self.sums, other.sums]), classes=self.classes)

    @property
    def quoted(self) -> str:
        """Name of the number that is quoted."""
        return next(iter(self.numbers(self.sums[:1])))

    @property
    def value(self) -> float:
        """The number that is quoted."""
        return float(self.numbers(self.sums.sum(0)[None])[self.quoted][0])

    @property
    def merit(self) -> float:
        """:attr:`value`, so that more is better."""
        return self.value if self.rises else -self.value

    def interval(self) -> Interval:
        """Of :attr:`value`, pictures drawn anew; NaN of a single picture."""
        if len(self.sums) == 1:
            return Interval(float("nan"), float("nan"))
        return interval_of(self.numbers(self.redrawn())[self.quoted])

    def redrawn(self) -> Sums:
        """Sums (replicates, …) over pictures drawn anew; none of a single picture, of which nothing can be said."""
        if len(self.sums) == 1:
            return self.sums[:0]
        sums = resampled(self.sums.reshape(len(self.sums), -1), over_classes=True)
        return sums.reshape(-1, *self.sums.shape[1:])

    def rows(self) -> list[list[str]]:
        """Every number and its interval; the quoted one is the last."""
        anew = self.numbers(self.redrawn())
        rows = [[name, *_told(v[0], anew[name])] for name, v in self.numbers(self.sums.sum(0)[None]).items()]
        return [*rows[1:], rows[0]]

    def table(self) -> Table:
        """All numbers; the last row sums up."""
        return ["number", "value", "95%"], self.rows()

    def __str__(self) -> str:
        *others, quoted = self.rows()
        return ", ".join(" ".join(row).rstrip() for row in (quoted, *others) if row is quoted or row[1])


class LabelScores(Scores):
    """Of every class (pictures, classes, 7): pixels that are right, that are it and that are called it, void ones left
    out; and the counts of its outlines (:mod:`~diffeat.tasks.segmentation.boundary`)."""

    told = "mean over classes that occur or are predicted, void left out, outlines within 0.75 % of the diagonal"

    @classmethod
    def read(cls, sample: Any, data: Any) -> NDArray:
        return sample.labels(len(data.classes))

    @classmethod
    def of(cls, known: NDArray, predicted: NDArray, classes: Sequence[str] = ()) -> Self:
        confusion = Confusion(len(classes))
        confusion.add(known, np.asarray(predicted))
        counts = confusion.counts
        pixels = np.stack([np.diagonal(counts), counts.sum(1), counts.sum(0)], axis=1)
        outlines = boundary_counts(known, np.asarray(predicted), len(classes))
        return cls(np.concatenate([pixels, outlines], axis=1)[None].astype(np.float64), classes=tuple(classes))

    @staticmethod
    def iou_of(sums: Sums) -> Sums:
        """Of every class, in percent; NaN where it neither occurs nor is predicted."""
        right, true, called = np.moveaxis(sums[..., :3], -1, 0)
        union = true + called - right
        return 100 * np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)

    @staticmethod
    def numbers(sums: Sums) -> dict[str, Sums]:
        right, true = sums[..., 0].sum(-1), sums[..., 1].sum(-1)
        return {
            "mIoU": _mean(LabelScores.iou_of(sums)),
            "boundary F": 100 * _mean(boundary_f(sums[..., 3:])),
            "pixel accuracy": 100 * right / np.maximum(true, 1),
        }

    @property
    def iou(self) -> Sums:
        """See :meth:`iou_of`."""
        return self.iou_of(self.sums.sum(0))

    def table(self) -> Table:
        total, anew = self.sums.sum(0), self.redrawn()
        columns = [(self.iou_of(total), self.iou_of(anew))]
        columns += [(100 * boundary_f(total[..., 3:]), 100 * boundary_f(anew[..., 3:]))]
        rows = []
        for k, name in enumerate(self.classes):
            cells = [_told(value[k], redrawn[:, k]) for value, redrawn in columns]
            rows += [[name, *cells[0], *cells[1]]] if cells[0][0] else []
        outline, accuracy, quoted = self.rows()
        return ["class", "IoU", "95%", "boundary F", "95% of F"], [
            *rows,
            [*accuracy, "", ""],
            ["mean", *quoted[1:], *outline[1:]],
        ]


class ClassScores(Scores):
    """Of every class (pictures, classes, 2): pictures that are told, and pictures that are it."""

    told = "over all pictures"

    @classmethod
    def read(cls, sample: Any, data: Any) -> NDArray:
        return np.asarray(sample.label)

    @classmethod
    def of(cls, known: NDArray, predicted: NDArray, classes: Sequence[str] = ()) -> Self:
        sums = np.zeros((1, len(classes), 2))
        sums[0, int(known)] = int(known) == int(predicted), 1
        return cls(sums, classes=tuple(classes))

    @staticmethod
    def numbers(sums: Sums) -> dict[str, Sums]:
        return {"accuracy": 100 * sums[..., 0].sum(-1) / np.maximum(sums[..., 1].sum(-1), 1)}

    def table(self) -> Table:
        total, anew = (
            s[..., 0] / np.where(s[..., 1] > 0, s[..., 1], np.nan) for s in (self.sums.sum(0), self.redrawn())
        )
        rows = [
            [name, *_told(100 * total[k], 100 * anew[:, k])] for k, name in enumerate(self.classes) if total[k] >= 0
        ]
        return ["class", "accuracy", "95%"], [*rows, ["all", *self.rows()[-1][1:]]]


class DepthScores(Scores):
    """Over all known pixels: the mean relative error, the root of the mean squared error, and shares within factors of
    1.25, its square and its cube (Eigen et al., NeurIPS 2014)."""

    told, rises = "over all known pixels, in the unit of the data", False

    @classmethod
    def read(cls, sample: Any, data: Any) -> NDArray:
        depth, (near, far) = sample.target(), data.limits
        with np.errstate(invalid="ignore"):
            return np.where((depth > near) & (depth <= far), depth, np.float32(np.nan))[None]

    @classmethod
    def of(cls, known: NDArray, predicted: NDArray, classes: Sequence[str] = ()) -> Self:
        seen = ~np.isnan(known[0])
        truth = known[0][seen].astype(np.float64)
        guess = np.maximum(np.asarray(predicted)[seen], 1e-9).astype(np.float64)
        factor = np.maximum(truth / guess, guess / truth)
        within = [(factor < _DELTA**k).sum() for k in (1, 2, 3)]
        return cls(
            np.array([[len(truth), (np.abs(truth - guess) / truth).sum(), ((truth - guess) ** 2).sum(), *within]])
        )

    @staticmethod
    def numbers(sums: Sums) -> dict[str, Sums]:
        count = np.maximum(sums[..., 0], 1)
        within = {f"δ < 1.25{power}": 100 * sums[..., 3 + k] / count for k, power in enumerate(("", "²", "³"))}
        return {"AbsRel": sums[..., 1] / count, "RMSE": np.sqrt(sums[..., 2] / count), **within}


class NormalScores(Scores):
    """Over all known pixels: the mean angle in degrees, and shares below three angles."""

    told, rises = "over all known pixels", False

    @classmethod
    def read(cls, sample: Any, data: Any) -> NDArray:
        return sample.target()

    @classmethod
    def of(cls, known: NDArray, predicted: NDArray, classes: Sequence[str] = ()) -> Self:
        seen = ~np.isnan(known).any(0)
        truth, guess = known[:, seen].astype(np.float64), np.asarray(predicted, np.float64)[:, seen]
        cosine = (truth * guess).sum(0) / np.maximum(np.linalg.norm(guess, axis=0), 1e-9)
        angles = np.degrees(np.arccos(cosine.clip(-1, 1)))
        return cls(np.array([[len(angles), angles.sum(), *((angles < a).sum() for a in _ANGLES)]]))

    @staticmethod
    def numbers(sums: Sums) -> dict[str, Sums]:
        count = np.maximum(sums[..., 0], 1)
        below = {f"below {a}°": 100 * sums[..., 2 + k] / count for k, a in enumerate(_ANGLES)}
        return {"mean angle": sums[..., 1] / count, **below}


#: By target (:data:`diffeat.tasks.predictors.target.TARGETS`).
SCORES: dict[str, type[Scores]] = {
    "labels": LabelScores,
    "classes": ClassScores,
    "depth": DepthScores,
    "normals": NormalScores,
}


def _mean(values: Sums) -> Sums:
    """Over the classes that there are; NaN where there is none."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(-1)
    return np.divide(total, known.sum(-1), out=np.full_like(total, np.nan), where=known.any(-1))


def _told(value: float, anew: Sums) -> tuple[str, str]:
    """A number and its interval with three digits that count; empty where there is none.

    Args:
        anew: (replicates,) of the number.
    """
    if np.isnan(value):
        return "", ""
    if not len(anew):
        return _digits(value), ""
    low, high = (_digits(end) for end in interval_of(anew))
    return _digits(value), f"[{low}, {high}]"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 or abs(value) < 1e-3 else f"{value:.3g}"
