"""Scores of a trained head on a split of a dataset that it has not learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffeat.ambient import neutral
from diffeat.datasets.card import Kind
from diffeat.datasets.labelled import ClassDataset, MaskDataset
from diffeat.datasets.measured import TargetDataset
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.evaluation.intervals import Interval
from diffeat.evaluation.result import ShownResult, Table, check_alike, joined
from diffeat.progress import Progress, silent
from diffeat.tasks.predictors.predictor import Prediction, Predictor
from diffeat.tasks.predictors.scores import SCORES, Scores
from diffeat.tasks.predictors.windows import Windows

Data = MaskDataset | ClassDataset | TargetDataset
#: Target of predictions by the kind of datasets that they are scored on.
KINDS: dict[Kind, str] = {"label maps": "labels", "classes": "classes", "depth": "depth", "normals": "normals"}


@dataclass(frozen=True, repr=False)
class Scored(ShownResult):
    """The outcome of :func:`evaluate_head`, a :class:`~diffeat.evaluation.Result`.

    Attributes:
        split: Of the dataset.
        protocol: How pictures were shown and numbers come about.
        shown: Some predictions, with what is known.
    """

    dataset: str
    split: str
    recipe: str
    recipe_hash: str
    scores: Scores
    protocol: str
    notes: tuple[str, ...] = ()
    shown: Sequence[tuple[Prediction, NDArray]] = field(default=(), repr=False, compare=False)

    @property
    def value(self) -> float:
        """The number that is quoted: percent, of depth AbsRel, of normals degrees."""
        return self.scores.value

    def interval(self) -> Interval:
        """Pictures drawn anew."""
        return self.scores.interval()

    def table(self) -> Table:
        """By class, and in all."""
        return self.scores.table()

    def merge(self, other: Scored) -> Scored:
        """Pictures of both, predicted by one head."""
        check_alike(self, other, "protocol")
        return replace(self, scores=self.scores + other.scores, notes=joined(self.notes, other.notes))

    def __str__(self) -> str:
        count = len(self.scores.sums)
        drawn = "one picture has no interval" if count == 1 else "95% over pictures drawn anew"
        pictures = f"{count} picture{'s' * (count > 1)} of {self.dataset} {self.split}".rstrip()
        return f"{self.scores} on {pictures} ({drawn})\nprotocol: {self.protocol}"


@neutral()
def evaluate_head(
    predictor: Predictor,
    data: Data,
    *,
    windows: Windows | Literal["whole"] | None = None,
    prompt: str | None = None,
    shown: int = 0,
    progress: Progress = silent,
) -> Scored:
    """How well a head does on a dataset.

    Args:
        windows: How large pictures are cut; as the training says if not given.
        prompt: Text for the pictures; the training's if not given.
        shown: So many predictions are kept, to be shown.

    Raises:
        InvalidValueError: The data are of another kind or of other classes than the run.
        DatasetError: There are no pictures, or one cannot be used.
    """
    where = f"{data.name} {data.split}".rstrip()
    target = check_kind(predictor, data)
    if not len(data):
        raise DatasetError(f"{where} holds no pictures to score.")
    kind, classes = SCORES[target], predictor.legend.classes
    parts: list[Scores] = []
    kept: list[tuple[Prediction, NDArray]] = []
    predictions = predictor.predict((sample.image for sample in data), windows=windows, prompt=prompt)
    for sample, prediction in zip(data, progress(predictions, total=len(data), desc=f"score {where}"), strict=True):
        known = kind.read(sample, data)
        parts.append(kind.of(known, prediction.values, classes))
        if predictor.target.of_pixels and len(kept) < shown:
            kept.append((prediction, known))
    how = predictor.facts.windows if windows is None else windows
    size = f"each picture at its own size, {how if isinstance(how, Windows) else 'whole'}; "
    return Scored(
        dataset=data.name,
        split=data.split,
        recipe=predictor.source.recipe.name,
        recipe_hash=predictor.source.recipe.hash,
        scores=kind(np.concatenate([part.sums for part in parts]), classes=classes),
        protocol=(size if predictor.target.of_pixels else "") + kind.told,
        notes=data.notes,
        shown=kept,
    )


def check_kind(predictor: Predictor, data: Data) -> str:
    """The target of a dataset, which is that of the run; its classes are those of the run.

    Raises:
        InvalidValueError: They are not.
    """
    kind: Kind = "label maps" if isinstance(data, MaskDataset) else "classes"
    kind = data.quantity if isinstance(data, TargetDataset) else kind
    if KINDS[kind] != predictor.target.name:
        raise InvalidValueError(f"The run predicts {predictor.target.name}, but {data.name} holds {kind}.")
    predictor.legend.check(getattr(data, "classes", ()), f"{data.name} {data.split}".rstrip())
    return KINDS[kind]
