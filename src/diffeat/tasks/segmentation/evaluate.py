"""Segmentation with few labels: features once, then random splits, each trained and scored over its whole test set.

Two protocols, named with every number (:data:`PROTOCOLS`). ``native`` is ours: pictures are labelled at their own size
and the mean is over classes that occur. ``gdf`` is that of Generic Diffusion Feature (Meng et al., NeurIPS 2024),
which papers compare by: pictures and labels are brought to 256×256 (labels by OpenCV's nearest neighbour), the maps of
each model are joined as its files are (:mod:`diffeat.tasks.segmentation.pixels`, in place of what a recipe joins side
by side), and the mean is over all classes (:mod:`diffeat.tasks.segmentation.confusion`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from diffeat.ambient import neutral
from diffeat.datasets.labelled import IGNORE, MaskDataset, MaskSample
from diffeat.errors import InvalidValueError
from diffeat.evaluation.features import Store, feature_folder, features_of
from diffeat.evaluation.intervals import Interval, interval_of, resampled
from diffeat.evaluation.result import ShownResult, Table, check_alike, joined
from diffeat.evaluation.task import Task, TaskOptions, suggested
from diffeat.evaluation.texts import precision_notes, text_notes, text_of
from diffeat.extraction import Extractor, Joined, JoinedSource, Reading
from diffeat.extraction.filling import Fills
from diffeat.features import FeatureMap, Source
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.storage.url import place_of
from diffeat.tasks.segmentation.confusion import Confusion, class_iou
from diffeat.tasks.segmentation.ensemble import EnsembleSettings, Labelling, PixelEnsemble
from diffeat.tasks.segmentation.linear import LinearProbe
from diffeat.tasks.segmentation.pixels import PictureMaps, TrainingPixels

_EXAMPLES = 8
_SIDE = 256
PROTOCOLS = {
    "native": "labelled and scored at each picture's own size, mean over the classes that occur",
    "gdf": f"labelled and scored at {_SIDE}×{_SIDE}, mean over all classes, of which absent ones count 0, predictions "
    "on ignored pixels as wrong (as Generic Diffusion Feature, arXiv:2410.03558)",
}


class SegmentationOptions(TaskOptions):
    """How few labels are learned from."""

    classifier: Literal["ensemble", "linear"] = Field(
        default="ensemble", description="'ensemble' of pixel networks with voting, or 'linear'."
    )
    splits: int = Field(
        default=1, ge=1, description="Random splits of both parts together, for mean ± std; 1 keeps the parts."
    )
    labelled: int | None = Field(default=None, ge=1, description="Training pictures per split; all if not given.")
    pixels: int | None = Field(default=None, ge=1, description="Training pixels per picture; all if not given.")
    category: tuple[str, ...] = Field(default=(), description="Only pictures of this category; repeatable.")
    rare: int = Field(default=20, ge=0, description="A label with fewer pixels in a training picture is ignored there.")
    seed: int = Field(default=0, description="Of splits and training.")
    protocol: Literal["native", "gdf"] = Field(
        default="native",
        description="Of label maps 'native', at each picture's own size, or 'gdf', at 256×256 and over all classes, as "
        "published by Generic Diffusion Feature.",
    )

    @property
    def square(self) -> int | None:
        """Side of the square at which pictures are labelled; ``None`` for their own sizes."""
        return _SIDE if self.protocol == "gdf" else None


@dataclass(frozen=True)
class Example:
    """A labelled test picture, to be shown."""

    sample: MaskSample
    truth: np.ndarray
    labelling: Labelling


@dataclass(frozen=True)
class Split:
    """One random split.

    Attributes:
        confusions: Of every test picture.
        doubts: Uncertainty of every test picture, where the classifier has one.
        absent: Classes of the test pictures that no training picture shows; their IoU is 0.
    """

    train: tuple[MaskSample, ...]
    test: tuple[MaskSample, ...]
    confusions: tuple[Confusion, ...]
    doubts: tuple[float, ...]
    absent: tuple[str, ...]

    @property
    def confusion(self) -> Confusion:
        """Over all test pictures."""
        return reduce(add, self.confusions)

    @property
    def unsure(self) -> float | None:
        """Mean uncertainty of the test pictures."""
        return float(np.mean(self.doubts)) if self.doubts else None


@dataclass(frozen=True, repr=False)
class Segmentation(ShownResult):
    """The outcome of :func:`evaluate_segmentation`, a :class:`~diffeat.evaluation.Result`; numbers in percent."""

    dataset: str
    recipe: str
    recipe_hash: str
    classes: tuple[str, ...]
    splits: tuple[Split, ...]
    options: SegmentationOptions
    remarks: tuple[str, ...] = ()
    examples: tuple[Example, ...] = field(default=(), repr=False, compare=False)

    @property
    def values(self) -> list[float]:
        """mIoU of every split."""
        return [100 * s.confusion.miou for s in self.splits]

    @property
    def value(self) -> float:
        """Mean of :attr:`values`."""
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

    @property
    def notes(self) -> tuple[str, ...]:
        absent = [
            f"split {k + 1}: no training picture shows {', '.join(s.absent)} (with enough pixels); they count as IoU 0"
            for k, s in enumerate(self.splits)
            if s.absent
        ]
        return (*self.remarks, *absent, *(note for k, s in enumerate(self.splits) if (note := self._strayed(k, s))))

    def _strayed(self, number: int, split: Split) -> str:
        """What the mean owes to classes that occur nowhere: by the published second rule they count 0 in any case."""
        confusion = split.confusion
        occurs, given = confusion.counts.any(1), confusion.counts.sum(0)
        stray = np.flatnonzero(~occurs & (given > 0))
        if confusion.ignored is not None or not stray.size or not occurs.any():
            return ""
        of_occurring = 100 * float(np.mean(confusion.iou[occurs]))
        return (
            f"split {number + 1}: {', '.join(self.classes[i] for i in stray)} in no test picture, but predicted at "
            f"{given[stray].sum()} of {given.sum()} pixels; they count as IoU 0 (mean without them: {of_occurring:.2f})"
        )

    def interval(self) -> Interval:
        """Of the mean over splits, test pictures drawn anew within every split."""
        scores = []
        for k, split in enumerate(self.splits):
            tables = np.stack([c.table for c in split.confusions])
            sums = resampled(tables.reshape(len(tables), -1), seed=k, over_classes=True)
            scores.append(np.nanmean(class_iou(sums.reshape(-1, *tables.shape[1:])), axis=1))
        return interval_of(100 * np.mean(scores, axis=0))

    def table(self) -> Table:
        """IoU by class, for classes that occur."""
        rows = [[n, f"{v:.2f}"] for n, v in zip(self.classes, self.iou, strict=True) if v == v]
        return ["class", "IoU"], [*rows, ["all", f"{self.value:.2f}"]]

    def merge(self, other: Segmentation) -> Segmentation:
        """Test pictures of both, split by split, by the same classifiers."""
        check_alike(self, other, "classes", "options")
        if [s.train for s in self.splits] != [s.train for s in other.splits]:
            raise InvalidValueError("Results of classifiers of different training pictures cannot be merged.")
        splits = tuple(
            Split(
                one.train,
                (*one.test, *two.test),
                (*one.confusions, *two.confusions),
                (*one.doubts, *two.doubts),
                tuple(name for name in self.classes if name in {*one.absent, *two.absent}),
            )
            for one, two in zip(self.splits, other.splits, strict=True)
        )
        examples = (*self.examples, *other.examples)[:_EXAMPLES]
        return replace(self, splits=splits, remarks=joined(self.remarks, other.remarks), examples=examples)

    def __str__(self) -> str:
        spread = f" ± {self.std:.2f} over {len(self.splits)} random splits" if len(self.splits) > 1 else ""
        first = next(iter(self.splits))
        return (
            f"{self.dataset}, recipe {self.recipe}, {self.options.classifier}\n"
            f"mIoU {self.value:.2f}{spread} {self.interval()}, pixel accuracy {self.accuracy:.2f}; "
            f"{len(first.train)} training and {len(first.test)} test pictures\n"
            f"protocol {self.options.protocol}: {PROTOCOLS[self.options.protocol]}"
        )


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


def _extractors(source: Source[FeatureMap]) -> Iterator[Source[FeatureMap]]:
    """What the published procedure keeps files of: each model, its maps not yet side by side."""
    if isinstance(source, JoinedSource) and source.recipe.join == "concat":
        for part in source.sources:
            yield from _extractors(part)
        return
    recipe = source.recipe
    if isinstance(source, Fills) and isinstance(recipe, Joined) and recipe.join == "concat":
        for part in recipe.parts:
            yield from _extractors(source.of(part))
        return
    reading = recipe if isinstance(recipe, Reading) else None
    fuse = reading.fuse if reading else None
    if isinstance(source, Extractor | Fills) and reading and fuse and fuse.kind == "concat" and not fuse.normalise:
        source = source.of(reading.replace(fuse=None))
    yield source


@contextmanager
def _maps_of(
    source: Source[FeatureMap],
    texts: Mapping[Path, str | None],
    square: int | None,
    store: Store,
    progress: Progress,
) -> Iterator[Callable[[Path], PictureMaps]]:
    """What gives the maps of a picture; features of several models rest beside the store that is given."""
    if isinstance(source.recipe, Joined):
        texts = {path: source.recipe.text_for(None) if text is None else text for path, text in texts.items()}
    place = store.path if isinstance(store, FeatureStore) else None if store is None else place_of(store)
    with ExitStack() as stack:
        files = []
        for part in [source] if square is None else _extractors(source):
            own = store if part is source or place is None else feature_folder(place.parent, part)
            files.append(stack.enter_context(features_of(part, texts, own, keep=0, progress=progress)))
        yield lambda path: reduce(add, (PictureMaps.of(file.load(path), square=square) for file in files))


@neutral()
def evaluate_segmentation(
    data: tuple[MaskDataset, MaskDataset],
    source: Source[FeatureMap],
    options: SegmentationOptions | None = None,
    *,
    store: Store = None,
    progress: Progress = silent,
) -> Segmentation:
    """Train classifiers of pixels on a few labelled pictures and score them on others.

    Label maps are read when they are needed and never held together.

    Args:
        data: Pictures to train on, and pictures to score on.
        options: Those that the recipe has for the task if not given.
        store: Where features rest (a folder is made or gone on with); temporary if not given.

    Raises:
        DatasetError: A label map does not fit its picture (in the native protocol) or its classes.
        InvalidValueError: Training pictures show fewer than two classes, or the options do not fit.
    """
    options = options or SegmentationOptions(**suggested(source.recipe, "segmentation"))
    train, test = (part.only(options.category) if options.category else part for part in data)
    if train.classes != test.classes:
        raise InvalidValueError(f"{train.name} and {test.name} do not have the same classes.")
    chosen = random_splits(train.samples, test.samples, options.splits, options.labelled, options.seed)
    classes, square = len(train.classes), options.square
    size = None if square is None else (square, square)
    used = list(dict.fromkeys(s for part in chosen for side in part for s in side))
    for sample in used:
        sample.labels(classes, size)  # refused before anything is extracted
    texts = {s.image: text_of(s.image, s.category, options.prompts, source.recipe.template) for s in used}
    splits: list[Split] = []
    examples: list[Example] = []
    with _maps_of(source, texts, square, store, progress) as maps:
        for k, (learn, score) in enumerate(chosen):
            training = TrainingPixels(
                [maps(s.image) for s in learn],
                (s.labels(classes, size) for s in learn),
                rare=options.rare,
                most=options.pixels,
                seed=options.seed + k,
            )
            linear = options.classifier == "linear"
            model = LinearProbe(classes) if linear else PixelEnsemble(classes, EnsembleSettings(seed=options.seed))
            model.fit(training)
            known, shown = set(training.labels.unique().tolist()), set[int]()
            confusions, doubts = [], []
            for sample in progress(score, total=len(score), desc=f"split {k + 1}"):
                truth = sample.labels(classes, size)
                labelling = model.predict(maps(sample.image))
                confusions.append(Confusion(classes) if square is None else Confusion.as_gdf(classes))
                confusions[-1].add(truth, labelling.labels.numpy())
                if labelling.unsure is not None:
                    doubts.append(labelling.unsure)
                shown |= set(np.unique(truth).tolist()) - {IGNORE}
                if len(examples) < _EXAMPLES:
                    examples.append(Example(sample, truth, labelling))
            absent = tuple(train.classes[v] for v in sorted(shown - known))
            splits.append(Split(tuple(learn), tuple(score), tuple(confusions), tuple(doubts), absent))
    return Segmentation(
        dataset=test.name,
        recipe=source.recipe.name,
        recipe_hash=source.recipe.hash,
        classes=train.classes,
        splits=tuple(splits),
        options=options,
        remarks=joined(
            train.notes,
            test.notes,
            text_notes(options.prompts, texts, source.recipe, named=any(s.category for s in used)),
            precision_notes(source),
        ),
        examples=tuple(examples),
    )


TASK = Task("segmentation", "label maps", SegmentationOptions, evaluate_segmentation, learns=True)
