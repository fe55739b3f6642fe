"""Metrics that are fed batch by batch: ``update``, ``compute``, ``reset``, and ``merge`` for parts that were fed apart.

Their state adds up, so parts of a data set on several machines give the same number as the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import ArrayLike

from diffeat.datasets.labelled import IGNORE
from diffeat.errors import InvalidValueError
from diffeat.evaluation.intervals import Interval, interval_of, resampled
from diffeat.evaluation.result import Table
from diffeat.tasks.correspondence.keypoints import PairRecord, PckResult, pck, record_pair
from diffeat.tasks.correspondence.protocol import Protocol, get_protocol
from diffeat.tasks.segmentation.confusion import class_iou


class PckMetric:
    """The percentage of correct key points.

    Args:
        protocol: Preset by name, or one of one's own.

    Raises:
        UnknownNameError: No such preset.

    Example:
        >>> metric = PckMetric("picture")
        >>> metric.update([(0, 0), (9, 0)], [(0, 3), (0, 0)], target_size=(80, 60))
        >>> metric.compute().value
        50.0
    """

    def __init__(self, protocol: str | Protocol = "spair") -> None:
        self.protocol = get_protocol(protocol) if isinstance(protocol, str) else protocol
        self.records: list[PairRecord] = []

    def update(
        self,
        predicted: ArrayLike,
        truth: ArrayLike,
        *,
        target_size: tuple[int, int],
        target_box: Sequence[float] | None = None,
        category: str = "",
        images: tuple[str, str] | None = None,
    ) -> None:
        """Add a pair; arguments and errors as of :func:`~diffeat.tasks.correspondence.record_pair`. Pictures of pairs
        that do not name theirs are of no other pair."""
        self.records.append(
            record_pair(
                predicted,
                truth,
                target_size=target_size,
                target_box=target_box,
                name=uuid4().hex,
                category=category,
                images=images,
            )
        )

    def compute(self) -> PckResult:
        """The numbers so far, with intervals.

        Raises:
            InvalidValueError: Nothing was added, or a pair lacks the box that the protocol needs.
        """
        return pck(self.records, self.protocol)

    def merge(self, other: PckMetric) -> PckMetric:
        """Both together.

        Raises:
            InvalidValueError: They score by other protocols.
        """
        if self.protocol != other.protocol:
            raise InvalidValueError(f"{self.protocol.name} and {other.protocol.name} are other protocols.")
        both = PckMetric(self.protocol)
        both.records = [*self.records, *other.records]
        return both

    def reset(self) -> None:
        """Forget all pairs."""
        self.records = []


@dataclass(frozen=True)
class IouResult:
    """Of :meth:`MeanIoU.compute`, in percent; ``tables`` (pictures, classes, classes) are counts, rows the truth."""

    classes: tuple[str, ...]
    tables: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """Of every class; NaN where it neither occurs nor is predicted."""
        return 100 * class_iou(self.tables.sum(0))

    @property
    def value(self) -> float:
        """Mean over the classes that occur or are predicted."""
        return float(np.nanmean(self.iou))

    def interval(self) -> Interval:
        """Of :attr:`value`, over pictures."""
        sums = resampled(self.tables.reshape(len(self.tables), -1), over_classes=True)
        return interval_of(100 * np.nanmean(class_iou(sums.reshape(-1, *self.tables.shape[1:])), axis=1))

    def table(self) -> Table:
        """IoU by class, for classes that occur."""
        rows = [[name, f"{v:.2f}"] for name, v in zip(self.classes, self.iou, strict=True) if v == v]
        return ["class", "IoU"], [*rows, ["all", f"{self.value:.2f}"]]


class MeanIoU:
    """The mean intersection over union of label maps; a picture of a batch is the unit of its interval.

    Args:
        classes: How many, or their names.
        ignore: The label of pixels that do not count.

    Example:
        >>> metric = MeanIoU(2)
        >>> metric.update([[0, 0, 1, 1]], [[0, 1, 1, 255]])
        >>> round(metric.compute().value, 1)
        50.0
    """

    def __init__(self, classes: int | Sequence[str], ignore: int = IGNORE) -> None:
        self.classes = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
        self.ignore = ignore
        self.tables: list[np.ndarray] = []

    def update(self, predicted: ArrayLike, truth: ArrayLike) -> None:
        """Add label maps: of a picture (h, w), or of a batch (b, h, w); numbers of classes, in the truth ``ignore``.

        Raises:
            InvalidValueError: They differ in shape, or hold a number that is no class.
        """
        p, t = (_array(values) for values in (predicted, truth))
        if p.shape != t.shape or p.ndim not in (2, 3):
            raise InvalidValueError(f"Label maps must both be (h, w) or (b, h, w), got {p.shape} and {t.shape}.")
        for one, other in zip(p.reshape(-1, *p.shape[-2:]), t.reshape(-1, *t.shape[-2:]), strict=True):
            kept = other != self.ignore
            for what, values in (("predicted", one[kept]), ("true", other[kept])):
                if values.size and not 0 <= values.min() <= values.max() < len(self.classes):
                    raise InvalidValueError(f"A {what} label is none of the {len(self.classes)} classes.")
            n = len(self.classes)
            self.tables.append(np.bincount(n * other[kept] + one[kept], minlength=n * n).reshape(n, n))

    def compute(self) -> IouResult:
        """The numbers so far.

        Raises:
            InvalidValueError: Nothing was added.
        """
        if not self.tables:
            raise InvalidValueError("There is no label map yet: update() first.")
        return IouResult(self.classes, np.stack(self.tables))

    def merge(self, other: MeanIoU) -> MeanIoU:
        """Both together.

        Raises:
            InvalidValueError: They have other classes.
        """
        if (self.classes, self.ignore) != (other.classes, other.ignore):
            raise InvalidValueError("Metrics of other classes cannot be merged.")
        both = MeanIoU(self.classes, self.ignore)
        both.tables = [*self.tables, *other.tables]
        return both

    def reset(self) -> None:
        """Forget all label maps."""
        self.tables = []


def _array(values: Any) -> np.ndarray:
    """Integers, of tensors on any device too."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values).astype(np.int64)
