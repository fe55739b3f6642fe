"""Segmentation with few labels: features once, then random splits, each trained and scored over its whole test set."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from diffeat.datasets.labelled import IGNORE, MaskDataset, MaskSample
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.tasks.correspondence.features import FeatureSource, PromptPolicy, category_text, extract_pictures
from diffeat.tasks.segmentation.confusion import Confusion
from diffeat.tasks.segmentation.ensemble import EnsembleSettings, Labelling, PixelEnsemble
from diffeat.tasks.segmentation.linear import LinearProbe
from diffeat.tasks.segmentation.pixels import PictureMaps, TrainingPixels

CLASSIFIERS = ("ensemble", "linear")


class Classifier(Protocol):
    """What is trained on pixels and labels pictures."""

    def fit(self, pixels: TrainingPixels) -> Any: ...
    def predict(self, picture: PictureMaps) -> Labelling: ...


@dataclass(frozen=True)
class Split:
    """One random split.

    Attributes:
        train: Pictures trained on.
        test: Pictures scored on.
        confusions: Of every test picture.
        unsure: Mean uncertainty of the test pictures, where the classifier has one.
        absent: Classes of the test pictures that no training picture shows; their IoU is 0.
    """

    train: tuple[MaskSample, ...]
    test: tuple[MaskSample, ...]
    confusions: tuple[Confusion, ...]
    unsure: float | None
    absent: tuple[str, ...]

    @property
    def confusion(self) -> Confusion:
        """Over all test pictures."""
        return reduce(add, self.confusions)


@dataclass(frozen=True)
class Segmentation:
    """The outcome of :func:`evaluate_segmentation`; numbers in percent."""

    dataset: str
    recipe: str
    recipe_hash: str
    classifier: str
    classes: tuple[str, ...]
    splits: tuple[Split, ...]
    notes: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> list[float]:
        """mIoU of every split."""
        return [100 * s.confusion.miou for s in self.splits]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        """Standard deviation over splits (n - 1); 0 for one split."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    @property
    def accuracy(self) -> float:
        """Share of right pixels, mean over splits."""
        return 100 * float(np.mean([s.confusion.accuracy for s in self.splits]))

    @property
    def iou(self) -> np.ndarray:
        """IoU of every class, mean over the splits where it occurs; NaN where it never does."""
        values = np.array([100 * s.confusion.iou for s in self.splits])
        known = ~np.isnan(values)
        total = np.where(known, values, 0).sum(0)
        return np.divide(total, known.sum(0), out=np.full(len(total), np.nan), where=known.any(0))

    def interval(self, confidence: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
        """Bootstrap interval of the mean over splits, test pictures drawn anew within every split."""
        rng = np.random.default_rng(seed)
        draws = np.zeros(samples)
        for split in self.splits:
            counts = np.stack([c.counts for c in split.confusions])
            weights = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=samples)
            summed = np.einsum("sp,pij->sij", weights.astype(float), counts.astype(float), optimize=True)
            draws += [100 * Confusion(len(self.classes), matrix).miou for matrix in summed]
        low, high = np.quantile(draws / len(self.splits), [(1 - confidence) / 2, (1 + confidence) / 2])
        return float(low), float(high)

    def __str__(self) -> str:
        low, high = self.interval()
        spread = f" ± {self.std:.2f} over {len(self.splits)} random splits" if len(self.splits) > 1 else ""
        first = next(iter(self.splits))
        sizes = f"{len(first.train)} training and {len(first.test)} test pictures"
        return (
            f"{self.dataset}, recipe {self.recipe}, {self.classifier}\n"
            f"mIoU {self.mean:.2f}{spread} [{low:.1f}, {high:.1f}], pixel accuracy {self.accuracy:.2f}; {sizes}"
        )


def make_classifier(name: str, classes: int, settings: EnsembleSettings | None = None) -> Classifier:
    """A classifier of :data:`CLASSIFIERS`.

    Raises:
        UnknownNameError: No such classifier.
    """
    if name not in CLASSIFIERS:
        raise UnknownNameError(f"No classifier {name!r}. {did_you_mean(name, CLASSIFIERS)}".rstrip())
    return PixelEnsemble(classes, settings) if name == "ensemble" else LinearProbe(classes)


def random_splits(
    train: Sequence[MaskSample], test: Sequence[MaskSample], count: int, labelled: int | None, seed: int
) -> list[tuple[list[MaskSample], list[MaskSample]]]:
    """Splits to train and score on.

    One split is the dataset's own (with the first ``labelled`` training pictures drawn at random where it is given).
    Several shuffle both parts together, keeping their sizes, as the published numbers do.

    Raises:
        InvalidValueError: More labelled pictures are wanted than there are.
    """
    size = labelled or len(train)
    if count < 1 or size > len(train):
        raise InvalidValueError(
            f"{size} labelled pictures and {count} splits are asked for; there are {len(train)} training pictures."
        )
    found = []
    for k in range(count):
        rng = np.random.default_rng((seed, k))
        if count == 1:
            some = sorted(rng.permutation(len(train))[:size])
            found.append(([train[i] for i in some], list(test)))
            continue
        pool = [*train, *test]
        order = rng.permutation(len(pool))
        found.append(([pool[i] for i in order[:size]], [pool[i] for i in order[size : size + len(test)]]))
    return found


def evaluate_segmentation(
    train: MaskDataset,
    test: MaskDataset,
    source: FeatureSource,
    *,
    classifier: str = "ensemble",
    splits: int = 1,
    labelled: int | None = None,
    activations: Sequence[str] | None = None,
    prompts: PromptPolicy = None,
    store: str | Path | FeatureStore | None = None,
    settings: EnsembleSettings | None = None,
    pixels: int | None = None,
    rare: int = 20,
    seed: int = 0,
    progress: Progress = silent,
    seen: Callable[[MaskSample, np.ndarray, Labelling], None] | None = None,
) -> Segmentation:
    """Train classifiers of pixels on a few labelled pictures and score them on others.

    Args:
        train: Pictures to train on.
        test: Pictures to score on.
        source: Where features come from (:class:`diffeat.Extractor` …).
        classifier: ``"ensemble"`` of pixel networks with voting, or ``"linear"``.
        splits: Random splits of both datasets together; 1 keeps them as they are.
        labelled: Training pictures per split; all if not given.
        activations: Which maps of the recipe; all if not given.
        prompts: Text for the pictures, see :data:`~diffeat.tasks.correspondence.features.PromptPolicy`.
        store: Where features rest (a folder is made or continued); temporary if not given.
        settings: Of the ensemble.
        pixels: Training pixels per picture; all if not given.
        rare: A label with fewer pixels than this in a training picture is ignored there.
        seed: Of splits and training.
        seen: Is given every test picture with its truth and what was predicted, to draw it.

    Raises:
        DatasetError: A picture cannot be used, or labels are of another size than their picture.
        InvalidValueError: Training pictures show fewer than two classes, or settings do not fit.
    """
    if train.classes != test.classes:
        raise InvalidValueError(f"{train.name} and {test.name} do not have the same classes.")
    chosen = random_splits(train.samples, test.samples, splits, labelled, seed)
    classes = len(train.classes)
    template = getattr(source.recipe, "template", "{}")
    used = list(dict.fromkeys(s for part in chosen for side in part for s in side))
    truths = {s: s.labels(classes) for s in used}  # refused before anything is extracted
    texts = {s.image: category_text(s.category, prompts, template) for s in used}
    done = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="diffeat-"))
        where = store if store is not None else Path(folder) / "features"
        if not isinstance(where, FeatureStore):
            recipe = source.recipe
            where = FeatureStore.open_or_create(where, recipe.content(), recipe.hash, weights=source.fingerprint)
            stack.enter_context(where)
        extract_pictures(source, texts, where, progress)

        def maps(sample: MaskSample) -> PictureMaps:
            return PictureMaps.of(where.load(sample.image.as_posix()), activations)

        for k, (learn, score) in enumerate(chosen):
            training = TrainingPixels(
                [maps(s) for s in learn], [truths[s] for s in learn], rare=rare, most=pixels, seed=seed + k
            )
            model = make_classifier(classifier, classes, settings)
            model.fit(training)
            confusions, doubts = [], []
            for sample in progress(score, total=len(score), desc=f"split {k + 1}"):
                labelling = model.predict(maps(sample))
                confusion = Confusion(classes)
                confusion.add(truths[sample], labelling.labels.numpy())
                confusions.append(confusion)
                if labelling.unsure is not None:
                    doubts.append(labelling.unsure)
                if seen is not None:
                    seen(sample, truths[sample], labelling)
            absent = _absent(training, [truths[s] for s in score], train.classes)
            unsure = float(np.mean(doubts)) if doubts else None
            done.append(Split(tuple(learn), tuple(score), tuple(confusions), unsure, absent))
    return Segmentation(
        dataset=train.name,
        recipe=source.recipe.name,
        recipe_hash=source.recipe.hash,
        classifier=classifier,
        classes=train.classes,
        splits=tuple(done),
        notes=(*dict.fromkeys((*train.notes, *test.notes)), *_absent_notes(done)),
        settings={"labelled": labelled, "splits": splits, "pixels": pixels, "seed": seed, "rare": rare},
    )


def _absent(training: TrainingPixels, truths: Sequence[np.ndarray], classes: Sequence[str]) -> tuple[str, ...]:
    known = set(torch.unique(training.labels).tolist())
    wanted = {int(v) for truth in truths for v in np.unique(truth)} - {IGNORE}
    return tuple(classes[v] for v in sorted(wanted - known))


def _absent_notes(splits: Sequence[Split]) -> list[str]:
    return [
        f"split {k + 1}: no training picture shows {', '.join(s.absent)} (with enough pixels); they count as IoU 0"
        for k, s in enumerate(splits)
        if s.absent
    ]
