"""One confusion matrix over a whole set, and the numbers that follow from it.

Intersections and unions are summed over all pictures first. Then the mean over classes is taken by one of two rules:

* ours: over the classes that occur in the truth or the predictions; ignored pixels do not count.
* Generic Diffusion Feature's (and ddpm-segmentation's): over all classes, where one that never occurs counts as 0, and
  a prediction on an ignored pixel counts into its class's union.
"""

from __future__ import annotations

import numpy as np

from diffeat.datasets.labelled import IGNORE


class Confusion:
    """Counts of (true, predicted) labels.

    Args:
        counts: (classes, classes), rows are the truth.
        ignored: (classes,) predictions at ignored pixels, for the second rule of the module; the first if ``None``.
    """

    def __init__(self, classes: int, counts: np.ndarray | None = None, ignored: np.ndarray | None = None) -> None:
        self.counts = np.zeros((classes, classes), np.int64) if counts is None else counts
        self.ignored = ignored

    @classmethod
    def as_gdf(cls, classes: int) -> Confusion:
        """An empty one that scores by the second rule."""
        return cls(classes, ignored=np.zeros(classes, np.int64))

    def add(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Count the pixels of a picture; those of :data:`~diffeat.datasets.labelled.IGNORE` in the truth are apart."""
        classes = len(self.counts)
        keep = truth != IGNORE
        pairs = truth[keep].astype(np.int64) * classes + predicted[keep]
        self.counts += np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
        if self.ignored is not None:
            self.ignored += np.bincount(predicted[~keep], minlength=classes)

    def __add__(self, other: Confusion) -> Confusion:
        both = None if self.ignored is None or other.ignored is None else self.ignored + other.ignored
        return Confusion(len(self.counts), self.counts + other.counts, both)

    @property
    def table(self) -> np.ndarray:
        """All counts, (classes or classes + 1, classes); tables of several pictures add up."""
        return self.counts if self.ignored is None else np.vstack([self.counts, self.ignored])

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of every class; see :func:`class_iou`."""
        return class_iou(self.table)

    @property
    def miou(self) -> float:
        """Mean of :attr:`iou`, background included; NaN where nothing was counted."""
        return float(np.nanmean(self.iou)) if self.table.any() else float("nan")

    @property
    def accuracy(self) -> float:
        """Share of pixels that are right."""
        return float(np.trace(self.counts) / max(1, self.counts.sum()))


def class_iou(tables: np.ndarray) -> np.ndarray:
    """Intersection over union of confusions (…, k, k), NaN for classes that neither occur nor are predicted.

    With a last row of predictions at ignored pixels (…, k + 1, k) by the second rule of the module, with its ε of 1e-8.
    """
    classes = tables.shape[-1]
    hit = np.diagonal(tables[..., :classes, :], axis1=-2, axis2=-1).astype(float)
    union = tables.sum(-2) + tables[..., :classes, :].sum(-1) - hit
    if tables.shape[-2] > classes:
        return hit / (union + 1e-8)
    return np.divide(hit, union, out=np.full_like(hit, np.nan), where=union > 0)
