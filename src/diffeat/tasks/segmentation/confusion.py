"""One confusion matrix over a whole set, and the numbers that follow from it."""

from __future__ import annotations

import numpy as np

from diffeat.datasets.labelled import IGNORE


class Confusion:
    """Counts of (true, predicted) labels.

    Args:
        counts: (classes, classes), rows are the truth.
    """

    def __init__(self, classes: int, counts: np.ndarray | None = None) -> None:
        self.counts = np.zeros((classes, classes), np.int64) if counts is None else counts

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count the pixels of a picture; :data:`~diffeat.datasets.labelled.IGNORE` in the truth does not count."""
        classes = len(self.counts)
        keep = truth != IGNORE
        pairs = truth[keep].astype(np.int64) * classes + predicted[keep]
        self.counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(len(self.counts), self.counts + other.counts)

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of every class; NaN for classes that neither occur nor are predicted."""
        return class_iou(self.counts)

    @property
    def miou(self) -> float:
        """Mean of :attr:`iou` over the classes that occur in the truth or the predictions, background included."""
        return float(np.nanmean(self.iou)) if self.counts.any() else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of pixels that are right."""
        return float(np.trace(self.counts) / max(1, self.counts.sum()))


def class_iou(counts: np.ndarray) -> np.ndarray:
    """Intersection over union (…, k) of confusions (…, k, k); NaN for classes that neither occur nor are predicted."""
    hit = np.diagonal(counts, axis1=-2, axis2=-1).astype(float)
    union = counts.sum(-2) + counts.sum(-1) - hit
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)
