"""A recipe over pairs of pictures of planes: homographies, their corner errors, and how many are within 1, 3, 5 px."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import Field

from diffeat.ambient import neutral
from diffeat.datasets.hpatches import PlanarDataset
from diffeat.errors import InvalidValueError
from diffeat.evaluation.features import Store, features_of
from diffeat.evaluation.intervals import Interval, bootstrap
from diffeat.evaluation.result import ShownResult, Table, check_alike, joined
from diffeat.evaluation.task import Task, TaskOptions, suggested
from diffeat.evaluation.texts import one_text, precision_notes, text_notes
from diffeat.features import FeatureMap, Source
from diffeat.geometry import open_image
from diffeat.progress import Progress, silent
from diffeat.tasks.homography.estimate import (
    Estimator,
    Sampling,
    Similarity,
    corner_error,
    describe,
    detect,
    find_homography,
    mutual_neighbours,
    once,
    opencv,
)

THRESHOLDS = (1, 3, 5)
_HEADLINE = 3
_CATEGORIES = {"i": "light (i)", "v": "viewpoint (v)", "": "all"}


class HomographyOptions(TaskOptions):
    """How points are described, matched, and turned into a homography."""

    similarity: Similarity = Field(default="cosine", description="By which features are nearest: 'cosine' or 'l2'.")
    estimator: Estimator = Field(default="lmeds", description="OpenCV's: 'lmeds', or 'ransac' within 3 pixels.")
    sampling: Sampling = Field(
        default="exact", description="Of features at key points: 'exact', or 'released' as in the code of DIFT."
    )
    most_points: int = Field(
        default=1000, ge=4, description="Key points that SIFT detects in a picture, where no files of them are given."
    )

    def __str__(self) -> str:
        return f"mutual neighbours by {self.similarity}, {self.estimator}, {self.sampling} sampling"


@dataclass(frozen=True)
class PlaneScore:
    """What was estimated for one pair.

    Attributes:
        error: Mean distance in pixels of the first picture's corners; infinite where there is no homography.
        matches: Points that chose each other.
        inliers: Those that agree with the homography.
    """

    name: str
    category: str
    sequence: str
    error: float
    matches: int
    inliers: int


@dataclass(frozen=True, repr=False)
class Homographies(ShownResult):
    """The outcome of :func:`evaluate_homographies`, a :class:`~diffeat.evaluation.Result`; numbers in percent."""

    dataset: str
    recipe: str
    recipe_hash: str
    options: HomographyOptions
    scores: tuple[PlaneScore, ...]
    notes: tuple[str, ...] = ()

    def accuracy(self, threshold: float, category: str = "") -> float:
        """Share of pairs whose corner error is at most so many pixels; NaN where there is no pair."""
        errors = [s.error for s in self.scores if category in ("", s.category)]
        return 100 * float(np.mean(np.array(errors) <= threshold)) if errors else float("nan")

    @property
    def value(self) -> float:
        """Accuracy at 3 pixels, over all pairs."""
        return self.accuracy(_HEADLINE)

    def interval(self) -> Interval:
        """Over sequences, whose pairs are drawn together."""
        units = [(100 * (s.error <= _HEADLINE), 1) for s in self.scores]
        return bootstrap(units, lambda sums: sums[:, 0] / sums[:, 1], groups=[s.sequence for s in self.scores])

    def table(self) -> Table:
        """A row for each kind of change, and one for all pairs."""
        rows = [
            [label, str(len(errors)), *(f"{self.accuracy(t, key):.1f}" for t in THRESHOLDS), f"{np.median(errors):.2f}"]
            for key, label in _CATEGORIES.items()
            if (errors := [s.error for s in self.scores if key in ("", s.category)])
        ]
        return ["pairs", "number", *(f"≤ {t} px" for t in THRESHOLDS), "median error"], rows

    def merge(self, other: Homographies) -> Homographies:
        """The pairs of both; one that is in both counts once.

        Raises:
            InvalidValueError: The parts were not scored alike, or give a pair different scores.
        """
        check_alike(self, other, "options")
        by_name = {score.name: score for score in self.scores}
        for score in other.scores:
            if by_name.setdefault(score.name, score) != score:
                raise InvalidValueError(f"The results give different scores to {score.name}.")
        return replace(self, scores=tuple(by_name.values()), notes=joined(self.notes, other.notes))

    def __str__(self) -> str:
        numbers = "   ".join(f"≤ {t} px {self.accuracy(t):.2f}" for t in THRESHOLDS)
        return (
            f"{self.dataset}, recipe {self.recipe}, homography accuracy ({self.options})\n"
            f"{numbers}; at {_HEADLINE} px {self.interval()}; {len(self.scores)} pairs"
        )


@neutral()
def evaluate_homographies(
    data: PlanarDataset,
    source: Source[FeatureMap],
    options: HomographyOptions | None = None,
    *,
    store: Store = None,
    progress: Progress = silent,
) -> Homographies:
    """Estimate the homography of every pair and score its corners (DIFT's HPatches evaluation, arXiv:2306.03881).

    Pairs with fewer than four matches, or without a homography, count as wrong.

    Args:
        source: A recipe that gives one map.
        options: Those that the recipe has for the task if not given.
        store: Where features rest.

    Raises:
        ModelError: OpenCV is not installed.
        DatasetError: A picture cannot be used.
        InvalidValueError: A number of points to detect, where they are given.
    """
    options = options or HomographyOptions(**suggested(source.recipe, "homography"))
    text = one_text(options.prompts)
    if "most_points" in options.model_fields_set and data[0].source_points is not None:
        raise InvalidValueError("most_points would be ignored: key points are given, so none are detected.")
    opencv()
    texts = {path: text for pair in data for path in (pair.source, pair.target)}
    detected = cache(lambda path: detect(open_image(path), options.most_points))
    scores: list[PlaneScore] = []
    with features_of(source, texts, store, progress=progress) as features:
        for pair in progress(data, total=len(data), desc="homographies"):
            given = (pair.source_points, pair.target_points)
            files: tuple[Path, Path] = (pair.source, pair.target)
            points = [once(detected(f) if p is None else p) for f, p in zip(files, given, strict=True)]
            maps = [features.load(file) for file in files]
            descriptors = [describe(m, p, options.sampling) for m, p in zip(maps, points, strict=True)]
            rows = mutual_neighbours(descriptors[0], descriptors[1], options.similarity).numpy()
            matrix, agree = find_homography(points[0][rows[:, 0]], points[1][rows[:, 1]], options.estimator)
            error = corner_error(matrix, pair.homography, maps[0].frame.original)
            scores.append(PlaneScore(pair.name, pair.category, pair.sequence, error, len(rows), int(agree.sum())))
    without = sum(score.error == float("inf") for score in scores)
    detector = [f"key points: the {options.most_points} strongest of SIFT"] if data[0].source_points is None else []
    failures = [f"{without} pairs without a homography count as wrong"] if without else []
    return Homographies(
        dataset=f"{data.name} {data.split}",
        recipe=source.recipe.name,
        recipe_hash=source.recipe.hash,
        options=options,
        scores=tuple(scores),
        notes=(
            *data.notes,
            *text_notes(options.prompts, {}, source.recipe),
            *precision_notes(source),
            *detector,
            *failures,
        ),
    )


TASK = Task("homography", "homographies", HomographyOptions, evaluate_homographies, one_map=True)
