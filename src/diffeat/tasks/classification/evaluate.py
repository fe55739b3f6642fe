"""A linear probe on averaged features: how well a picture's class can be read off."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.datasets.labelled import ClassDataset, ClassSample
from diffeat.errors import InvalidValueError
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.tasks.classification.pooled import pooled_features
from diffeat.tasks.correspondence.features import FeatureSource, PromptPolicy, category_text, extract_pictures
from diffeat.tasks.ridge import RidgeSums, balanced_accuracy

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
_HOLD_OUT = 4


@dataclass(frozen=True)
class Classification:
    """The outcome of :func:`evaluate_classification`.

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
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """In percent."""
        return 100 * float((self.truth == self.predicted).mean())

    @property
    def per_class(self) -> dict[str, float]:
        """Accuracy within every class of the test pictures, in percent."""
        right = self.truth == self.predicted
        return {
            n: 100 * float(right[self.truth == k].mean()) for k, n in enumerate(self.classes) if (self.truth == k).any()
        }

    def interval(self, confidence: float = 0.95, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Bootstrap interval over test pictures."""
        right = 100.0 * (self.truth == self.predicted)
        rng = np.random.default_rng(seed)
        draws = right[rng.integers(0, len(right), (samples, len(right)))].mean(1)
        low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval()
        return (
            f"{self.dataset}, recipe {self.recipe}, linear probe on averaged features\n"
            f"accuracy {self.accuracy:.2f} [{low:.1f}, {high:.1f}]; {self.trained_on} training and {len(self.truth)} "
            f"test pictures, {len(self.classes)} classes"
        )


def evaluate_classification(
    train: ClassDataset,
    test: ClassDataset,
    source: FeatureSource,
    *,
    activations: Sequence[str] | None = None,
    prompts: PromptPolicy = None,
    strengths: Sequence[float] = STRENGTHS,
    store: str | Path | FeatureStore | None = None,
    progress: Progress = silent,
) -> Classification:
    """Train a linear probe and score it.

    Args:
        train: Pictures to train on.
        test: Pictures to score on, of the same classes.
        source: Where features come from.
        activations: Which maps of the recipe; all if not given.
        prompts: Text for all pictures; none that tells the class, of course.
        strengths: Of the regularisation, chosen on every fourth training picture.
        store: Where features rest, for pictures that are files; without one they are read off and forgotten.

    Raises:
        InvalidValueError: The datasets do not fit, a class has no training picture, or the text tells the class.
    """
    if train.classes != test.classes:
        raise InvalidValueError(
            f"Training and test pictures have different classes ({', '.join(train.classes[:4])} … and "
            f"{', '.join(test.classes[:4])} …)."
        )
    if prompts is not None and (not isinstance(prompts, str) or prompts == "category" or "{category}" in prompts):
        raise InvalidValueError("A text that names the class would give the answer away. Use one text for all.")
    absent = sorted({test.classes[s.label] for s in test} - {train.classes[s.label] for s in train})
    if absent:
        raise InvalidValueError(
            f"No training picture shows {', '.join(absent)}, which test pictures show. Add some, or leave it out."
        )
    text = category_text("", prompts, getattr(source.recipe, "template", "{}"))
    with ExitStack() as stack:
        if store is not None and not isinstance(store, FeatureStore):
            recipe = source.recipe
            store = FeatureStore.open_or_create(store, recipe.content(), recipe.hash, weights=source.fingerprint)
            stack.enter_context(store)
        features, labels = _pooled(train, source, activations, text, store, progress)
        tested, truth = _pooled(test, source, activations, text, store, progress)
    weight, bias, strength = fit_linear(features, labels, len(train.classes), strengths)
    return Classification(
        dataset=test.name,
        recipe=source.recipe.name,
        recipe_hash=source.recipe.hash,
        classes=test.classes,
        truth=truth.numpy(),
        predicted=(tested @ weight.T + bias).argmax(1).numpy(),
        strength=strength,
        trained_on=len(train),
        notes=tuple(dict.fromkeys((*train.notes, *test.notes))),
        settings={"prompts": prompts},
    )


def fit_linear(
    features: Float[Tensor, "n c"], labels: Tensor, classes: int, strengths: Sequence[float] = STRENGTHS
) -> tuple[Tensor, Tensor, float]:
    """Weights, biases and the strength that did best on every fourth sample of a class."""
    everything = RidgeSums(features.shape[1], classes)
    everything.add(features, labels)
    out = _every_fourth(labels)
    chosen = strengths[0]
    if out.any() and len(strengths) > 1:
        held = RidgeSums(features.shape[1], classes)
        held.add(features[out], labels[out])
        rest = everything - held
        scores = []
        for strength in strengths:
            weight, bias = rest.solve(strength)
            hits, counts = balanced_accuracy(features[out] @ weight.T + bias, labels[out])
            scores.append(float((hits[counts > 0] / counts[counts > 0]).mean()))
        chosen = strengths[max(range(len(scores)), key=scores.__getitem__)]
    return *everything.solve(chosen), chosen


def _every_fourth(labels: Tensor) -> Tensor:
    out = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0]
        out[own[_HOLD_OUT - 1 :: _HOLD_OUT]] = True
    return out


def _pooled(
    dataset: ClassDataset,
    source: FeatureSource,
    activations: Sequence[str] | None,
    text: str | None,
    store: FeatureStore | None,
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    samples: list[ClassSample] = list(dataset)
    if not samples:
        raise InvalidValueError(f"{dataset.name} has no pictures in its split {dataset.split!r}.")
    files = [s.image for s in samples if isinstance(s.image, Path)]
    if store is not None and len(files) == len(samples):
        extract_pictures(source, dict.fromkeys(files, text), store, progress)
        found = (store.load(file.as_posix()) for file in files)
    else:
        found = source.stream([s.image for s in samples], text)
    rows = [pooled_features(f, activations) for f in progress(found, total=len(samples), desc=dataset.split)]
    return torch.stack(rows), torch.tensor([s.label for s in samples])
