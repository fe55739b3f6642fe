"""What masks that were found without training are worth: words' by their names, parts' after an assignment.

Of every class, pixels are counted that are right, those found elsewhere and those missed; counts are summed over all
pictures and the mean of IoU is over the classes that occur. Outlines count without a class: an outline pixel is right
where a true one lies within 0.75 % of the picture's diagonal (:mod:`diffeat.tasks.segmentation.boundary`).

*Parts* have no names. Published protocols (DiffSeg, DiffCut) give each class of a picture at most one part, one to one,
by the assignment of the largest sum of IoU; what is left over belongs to no class and costs the class it lies on. The
truth therefore says which part is what: the number compares partitions, and is no open vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.labelled import IGNORE
from diffeat.evaluation.intervals import Interval, bootstrap
from diffeat.evaluation.result import ShownResult, Table, check_alike, joined
from diffeat.evaluation.task import TaskOptions
from diffeat.tasks.segmentation.boundary import boundary_f

#: Of pixels that belong to no class.
NONE = -1


@dataclass(frozen=True)
class MaskProtocol:
    """What numbers of masks are."""

    what: str
    sides: tuple[str, str] = ("over classes", "F of outlines")

    def measure(self) -> str:
        return "mIoU"

    def __str__(self) -> str:
        return f"{self.what}; mIoU from sums over all pictures"


@dataclass(frozen=True, repr=False)
class MaskScores(ShownResult):
    """A :class:`~diffeat.evaluation.Result`; numbers in percent.

    Attributes:
        what: The protocol, in words.
        counts: (pictures, classes, 3): right, false and missed pixels.
        outlines: (pictures, 4), as :func:`~diffeat.tasks.segmentation.boundary.outline_counts` counts them.
    """

    dataset: str
    recipe: str
    recipe_hash: str
    classes: tuple[str, ...]
    counts: NDArray[np.int64]
    outlines: NDArray[np.int64]
    options: TaskOptions
    what: str
    notes: tuple[str, ...] = ()

    @property
    def iou(self) -> NDArray[np.float64]:
        """Of every class; NaN for those that neither occur nor are found."""
        return 100 * _iou(self.counts.sum(0)[None])[0]

    @property
    def value(self) -> float:
        """mIoU."""
        return float(self._miou(self.counts.sum(0)[None])[0])

    @property
    def boundary(self) -> float:
        """F of outlines, whatever their class."""
        return 100 * float(boundary_f(self.outlines.sum(0)))

    def interval(self) -> Interval:
        """Of mIoU, over pictures."""
        return bootstrap(self.counts.reshape(len(self.counts), -1), self._miou, over_classes=True)

    def boundary_interval(self) -> Interval:
        """Of :attr:`boundary`, over pictures."""
        return bootstrap(self.outlines, lambda sums: 100 * boundary_f(sums))

    def _miou(self, sums: NDArray) -> NDArray[np.float64]:
        return mask_miou(sums.reshape(len(sums), len(self.classes), 3))

    def table(self) -> Table:
        """IoU by class, for classes that occur."""
        rows = [[name, f"{v:.2f}"] for name, v in zip(self.classes, self.iou, strict=True) if v == v]
        return ["class", "IoU"], [*rows, ["all", f"{self.value:.2f}"]]

    def merge(self, other: MaskScores) -> MaskScores:
        """Pictures of both."""
        check_alike(self, other, "classes", "options", "what")
        return replace(
            self,
            counts=np.concatenate([self.counts, other.counts]),
            outlines=np.concatenate([self.outlines, other.outlines]),
            notes=joined(self.notes, other.notes),
        )

    def __str__(self) -> str:
        return (
            f"{self.dataset}, recipe {self.recipe}, {self.what}\n"
            f"mIoU {self.value:.2f} {self.interval()}, F of outlines {self.boundary:.1f} {self.boundary_interval()}; "
            f"{len(self.counts)} pictures"
        )


def _iou(sums: NDArray) -> NDArray[np.float64]:
    total = sums.sum(-1).astype(float)
    return np.divide(sums[..., 0], total, out=np.full(total.shape, np.nan), where=total > 0)


def mask_miou(sums: NDArray) -> NDArray[np.float64]:
    """mIoU (r,) in percent of counts (r, classes, 3), over the classes that occur or are found.

    Example:
        >>> mask_miou(np.array([[[1, 1, 0], [0, 0, 0]]])).tolist()
        [50.0]
    """
    return 100 * np.nanmean(_iou(sums), axis=1)


def mask_counts(truth: NDArray[np.integer], found: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Right, false and missed pixels (classes, 3) of a picture's labels (H, W); of :data:`IGNORE` in the truth none.

    Example:
        >>> mask_counts(np.array([[0, 0, 1, IGNORE]]), np.array([[0, 1, 1, 1]]), 2).tolist()
        [[1, 0, 1], [1, 1, 0]]
    """
    counted = truth != IGNORE
    truth, found = truth[counted].astype(np.int64), found[counted].astype(np.int64)
    right = np.bincount(truth[truth == found], minlength=classes)
    given = np.bincount(found[found != NONE], minlength=classes)
    return np.stack([right, given - right, np.bincount(truth, minlength=classes) - right], 1)


def assigned(truth: NDArray[np.integer], found: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """Found parts (H, W) under the numbers of the classes they are assigned to, :data:`NONE` where there is none.

    Example:
        >>> assigned(np.array([[0, 0, 0, 1]]), np.array([[7, 7, 4, 5]]), 2).tolist()
        [[0, 0, -1, 1]]
    """
    from scipy.optimize import linear_sum_assignment

    counted = truth != IGNORE
    parts, numbers = np.unique(found, return_inverse=True)
    numbers = numbers.reshape(found.shape)
    pairs = truth[counted].astype(np.int64) * len(parts) + numbers[counted]
    both = np.bincount(pairs, minlength=classes * len(parts)).reshape(classes, len(parts))
    union = both.sum(0)[None] + both.sum(1)[:, None] - both
    iou = np.divide(both, union, out=np.zeros(both.shape), where=union > 0)
    named = np.full(len(parts), NONE, np.int64)
    rows, columns = linear_sum_assignment(-iou)
    hit = iou[rows, columns] > 0
    named[columns[hit]] = rows[hit]
    return named[numbers]
