"""A linear probe on averaged features: how well a picture's class can be read off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.ambient import neutral
from diffeat.datasets.labelled import ClassDataset
from diffeat.errors import InvalidValueError
from diffeat.evaluation.features import Store, each_feature
from diffeat.evaluation.intervals import Interval, bootstrap
from diffeat.evaluation.result import ShownResult, Table, check_alike, joined
from diffeat.evaluation.task import Task, TaskOptions, suggested
from diffeat.evaluation.texts import one_text, precision_notes, text_notes
from diffeat.features import FeatureMap, Source
from diffeat.progress import Progress, silent
from diffeat.tasks.ridge import RidgeSums, best_sharpness, best_strength

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_HOLD_OUT = 4


@dataclass(frozen=True, repr=False)
class Classification(ShownResult):
    """The outcome of :func:`evaluate_classification`, a :class:`~diffeat.evaluation.Result`; numbers in percent.

    Attributes:
        truth: (n,) classes of the test pictures.
        predicted: (n,) predictions.
        strength: Of the regularisation, as chosen.
    """

    dataset: str
    recipe: str
    recipe_hash: str
    classes: tuple[str, ...]
    truth: np.ndarray
    predicted: np.ndarray
    strength: float
    trained_on: int
    options: TaskOptions
    notes: tuple[str, ...] = ()

    @property
    def right(self) -> np.ndarray:
        """(n,) whether each test picture's class was told."""
        return self.truth == self.predicted

    @property
    def value(self) -> float:
        """Accuracy over all test pictures."""
        return 100 * float(self.right.mean())

    @property
    def per_class(self) -> dict[str, float]:
        """Accuracy within every class of the test pictures."""
        own = {name: self.truth == k for k, name in enumerate(self.classes)}
        return {name: 100 * float(self.right[mask].mean()) for name, mask in own.items() if mask.any()}

    def interval(self) -> Interval:
        """Over test pictures."""
        return bootstrap(self.right[:, None], lambda hits: 100 * hits[:, 0] / len(self.right))

    def table(self) -> Table:
        """Accuracy by class."""
        rows = [[name, f"{value:.2f}"] for name, value in self.per_class.items()]
        return ["class", "accuracy"], [*rows, ["all", f"{self.value:.2f}"]]

    def merge(self, other: Classification) -> Classification:
        """Test pictures of both, by the same probe."""
        check_alike(self, other, "classes", "strength", "trained_on", "options")
        truth = np.concatenate([self.truth, other.truth])
        predicted = np.concatenate([self.predicted, other.predicted])
        return replace(self, truth=truth, predicted=predicted, notes=joined(self.notes, other.notes))

    def __str__(self) -> str:
        return (
            f"{self.dataset}, recipe {self.recipe}, linear probe on averaged features\n"
            f"accuracy {self.value:.2f} {self.interval()}; {self.trained_on} training and {len(self.truth)} "
            f"test pictures, {len(self.classes)} classes"
        )


@neutral()
def evaluate_classification(
    data: tuple[ClassDataset, ClassDataset],
    source: Source[FeatureMap],
    options: TaskOptions | None = None,
    *,
    store: Store = None,
    progress: Progress = silent,
) -> Classification:
    """Train a linear probe and score it.

    Args:
        data: Pictures to train on, and pictures to score on, of the same classes.
        options: Their prompts must be one text for all pictures, which does not tell the class.
        store: Where features rest, for pictures that are files; without one they are read off and forgotten.

    Raises:
        InvalidValueError: The datasets do not fit, a class has no training picture, or the text tells the class.
    """
    options = options or TaskOptions(**suggested(source.recipe, "classification"))
    train, test = data
    if train.classes != test.classes:
        raise InvalidValueError(
            f"Training and test pictures have different classes ({', '.join(train.classes[:4])} … and "
            f"{', '.join(test.classes[:4])} …)."
        )
    text = one_text(options.prompts)
    absent = sorted({test.classes[s.label] for s in test} - {train.classes[s.label] for s in train})
    if absent:
        raise InvalidValueError(
            f"No training picture shows {', '.join(absent)}, which test pictures show. Add some, or leave it out."
        )

    def pooled(part: ClassDataset) -> tuple[Tensor, Tensor]:
        if not len(part):
            raise InvalidValueError(f"{part.name} has no pictures in its split {part.split!r}.")
        features = each_feature(source, [s.image for s in part], text, store, progress)
        rows = [pooled_features(f) for f in progress(features, total=len(part), desc=part.split)]
        return torch.stack(rows), torch.tensor([s.label for s in part])

    fit = fit_linear(*pooled(train), len(train.classes))
    tested, truth = pooled(test)
    return Classification(
        dataset=test.name,
        recipe=source.recipe.name,
        recipe_hash=source.recipe.hash,
        classes=test.classes,
        truth=truth.numpy(),
        predicted=(tested @ fit.weight.T + fit.bias).argmax(1).numpy(),
        strength=fit.strength,
        trained_on=len(train),
        options=options,
        notes=joined(train.notes, test.notes, text_notes(options.prompts, {}, source.recipe), precision_notes(source)),
    )


@dataclass(frozen=True)
class LinearFit:
    """A linear classifier that is trained: weights (k, c), biases (k,), the strength that was chosen, and the sharpness
    of its scores (:mod:`diffeat.tasks.ridge`).
    """

    weight: Tensor
    bias: Tensor
    strength: float
    sharpness: float


def fit_linear(
    features: Float[Tensor, "n c"], labels: Tensor, classes: int, strengths: Sequence[float] = STRENGTHS
) -> LinearFit:
    """With the strength that did best on every fourth sample of a class."""
    everything, held = RidgeSums(features.shape[1], classes), RidgeSums(features.shape[1], classes)
    everything.add(features, labels)
    out = _every_fourth(labels)
    out = out if out.any() else torch.ones_like(out)

    def scored(weight: Tensor, bias: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        yield features[out] @ weight.T + bias, labels[out]

    if not out.all():
        held.add(features[out], labels[out])
    rest = everything - held
    strength = strengths[0] if out.all() or len(strengths) == 1 else best_strength(rest, strengths, scored)
    sharpness = best_sharpness(scored(*rest.solve(strength)))
    return LinearFit(*everything.solve(strength), strength, sharpness)


def pooled_features(features: FeatureMap, activations: Sequence[str] | None = None) -> Float[Tensor, " c"]:
    """Mean over cells of every map of a picture (or of some), side by side; padding does not count."""
    return torch.cat([features.pooled(name) for name in (features.activations if activations is None else activations)])


def _every_fourth(labels: Tensor) -> Tensor:
    out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        out[own[_HOLD_OUT - 1 :: _HOLD_OUT]] = True
    return out


TASK = Task("classification", "classes", TaskOptions, evaluate_classification, learns=True)
