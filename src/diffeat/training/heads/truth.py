"""What is known of pixels and learned: labels, depth, normals. A kind is a class and a line in :data:`TRUTHS`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from diffeat.datasets.labelled import IGNORE, MaskDataset, MaskSample
from diffeat.datasets.measured import TargetDataset, TargetSample
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.progress import Progress, silent
from diffeat.tasks.dense import angular_loss, lovasz_softmax, scale_invariant_loss
from diffeat.tasks.dense.options import DenseOptions
from diffeat.tasks.predictors.scores import SCORES
from diffeat.training.heads.cuts import Cut

Data = MaskDataset | TargetDataset


class Truth(ABC):
    """A kind of what is known.

    Attributes:
        kind: Of the datasets.
        target: Of predictions, see :data:`diffeat.tasks.predictors.target.TARGETS`.
        positive: Whether the network gives logarithms.
        fill: The value of pixels of which nothing is known.
        start: (k,) about what scores begin with, where :meth:`check` tells it.
        classes: Names of classes; of a regression there are none.
    """

    kind: ClassVar[str]
    target: ClassVar[str]
    positive: ClassVar[bool] = False
    fill: ClassVar[float] = float("nan")

    def __init__(self, data: Data) -> None:
        self.data = data
        self.classes: tuple[str, ...] = getattr(data, "classes", ())
        self.colours = getattr(data, "colours", ())
        self.start: Tensor | None = None

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Scores of a cell."""

    def read(self, sample: MaskSample | TargetSample) -> NDArray:
        """(…, H, W) of a sample's picture."""
        return SCORES[self.target].read(sample, self.data)

    def cut(self, known: NDArray, cut: Cut) -> Tensor:
        """A piece of it, (…, h, w)."""
        return torch.from_numpy(cut.values(known, self.fill))

    @abstractmethod
    def loss(self, scores: Tensor, truth: Tensor, options: DenseOptions) -> Tensor:
        """Of enlarged scores (b, k, h, w) and a batch of pieces (b, …, h, w)."""

    def check(self, data: Data, progress: Progress = silent) -> list[str]:
        """Read all that is known once; gives what a reader of numbers must know."""
        empty, means = 0, []
        for sample in progress(data, total=len(data), desc=f"check {self.kind}"):
            known = self.read(sample)
            if np.isnan(known).all():
                empty += 1
                continue
            means.append(np.nanmean(np.log(known) if self.positive else known, axis=(1, 2)))
        self.start = torch.from_numpy(np.mean(means, axis=0)).float() if means else None
        if empty == len(data):
            raise DatasetError(f"{data.name} knows the {self.kind} of no pixel: every file is void.")
        return [f"{empty} of {len(data)} pictures have no {self.kind} at all"] if empty else []


class LabelTruth(Truth):
    """A class for every pixel."""

    kind, target, fill = "label maps", "labels", IGNORE

    @property
    def outputs(self) -> int:
        return len(self.classes)

    def loss(self, scores: Tensor, truth: Tensor, options: DenseOptions) -> Tensor:
        labels = truth.long()
        known = (labels != IGNORE).sum().clamp(min=1)
        loss = F.cross_entropy(scores.float(), labels, ignore_index=IGNORE, reduction="sum") / known
        return loss + options.lovasz * lovasz_softmax(scores, labels, IGNORE) if options.lovasz else loss

    def check(self, data: Data, progress: Progress = silent) -> list[str]:
        counts: Counter[int] = Counter()
        for sample in progress(data, total=len(data), desc="check labels"):
            values, numbers = np.unique(self.read(sample), return_counts=True)
            counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
        counts.pop(IGNORE, None)
        if not counts:
            raise DatasetError(f"All pixels of the {len(data)} training masks of {data.name} are void.")
        if len(counts) == 1:
            raise DatasetError(
                f"The training masks of {data.name} show one class only, {self.classes[next(iter(counts))]!r}; two at "
                "least are needed to tell them apart."
            )
        absent = [name for label, name in enumerate(self.classes) if label not in counts]
        few = ", ".join(absent[:8]) + (f" and {len(absent) - 8} more" if len(absent) > 8 else "")
        return [f"no training picture shows {few}, which will not be predicted"] if absent else []


class DepthTruth(Truth):
    """A distance for every pixel; the network gives its logarithm."""

    kind, target, positive = "depth", "depth", True

    @property
    def outputs(self) -> int:
        return 1

    def loss(self, scores: Tensor, truth: Tensor, options: DenseOptions) -> Tensor:
        return scale_invariant_loss(scores, truth)


class NormalTruth(Truth):
    """The direction that every pixel's surface faces; mirrored pictures have mirrored directions."""

    kind, target = "normals", "normals"

    @property
    def outputs(self) -> int:
        return 3

    def cut(self, known: NDArray, cut: Cut) -> Tensor:
        piece = super().cut(known, cut)
        return piece * torch.tensor([-1.0, 1.0, 1.0])[:, None, None] if cut.flip else piece

    def loss(self, scores: Tensor, truth: Tensor, options: DenseOptions) -> Tensor:
        return angular_loss(scores, truth)


#: By kind of dataset.
TRUTHS: dict[str, type[Truth]] = {truth.kind: truth for truth in (LabelTruth, DepthTruth, NormalTruth)}


def truth_of(data: Data) -> Truth:
    kind = "label maps" if isinstance(data, MaskDataset) else data.quantity
    if kind not in TRUTHS:
        raise InvalidValueError(f"Nothing is learned from {kind}. Those that are: {', '.join(TRUTHS)}.")
    return TRUTHS[kind](data)
