"""A recipe over a correspondence dataset: predictions, errors, numbers.

Each picture is extracted once, whatever the number of its pairs, into a store that a later run goes on with. Pairs
that cannot be scored are left out and counted; nothing is scored silently.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from diffeat.datasets.pairs import Box, PairDataset, PointPair
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.features import FeatureMap
from diffeat.progress import Progress, silent
from diffeat.storage import FeatureStore
from diffeat.tasks.correspondence.features import (
    FeatureSource,
    PictureFeatures,
    PromptPolicy,
    extract_pictures,
    mirrored_pictures,
    picture_texts,
)
from diffeat.tasks.correspondence.flip import find_pose_aligned
from diffeat.tasks.correspondence.joint_pca import joint_pca_pair
from diffeat.tasks.correspondence.match import Matches, outside_picture
from diffeat.tasks.correspondence.pck import PairRecord, PckResult, pck, record_pair
from diffeat.tasks.correspondence.protocol import Protocol


@dataclass(frozen=True)
class PairPrediction:
    """What was predicted for one pair: the pair, the points found, and their errors."""

    pair: PointPair
    matches: Matches
    record: PairRecord


@dataclass(frozen=True)
class Evaluation:
    """The outcome of :func:`evaluate`.

    Attributes:
        dataset: Name and split.
        recipe: Name of the recipe.
        recipe_hash: Identifies its numbers.
        result: Scores, with their protocol and notes.
        predictions: Every scored pair, in the dataset's order.
        left_out: Pairs that could not be scored, with the reason.
        seconds: Time of extraction and of matching.
        pictures: How many were extracted by this run and how many were there.
    """

    dataset: str
    recipe: str
    recipe_hash: str
    result: PckResult
    predictions: tuple[PairPrediction, ...]
    left_out: dict[str, str]
    seconds: dict[str, float]
    pictures: dict[str, int]
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def records(self) -> list[PairRecord]:
        """Errors of every scored pair."""
        return [p.record for p in self.predictions]

    def __str__(self) -> str:
        return f"{self.dataset}, recipe {self.recipe}\n{self.result}"


def evaluate(
    dataset: PairDataset,
    extractor: FeatureSource,
    protocol: Protocol,
    *,
    prompts: PromptPolicy = None,
    store: str | Path | FeatureStore | None = None,
    activation: str | None = None,
    flip: bool = False,
    joint_pca: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Score a recipe on a dataset by a protocol.

    Args:
        extractor: An :class:`diffeat.Extractor` or another source of features.
        prompts: Text for the pictures (see :data:`~diffeat.tasks.correspondence.features.PromptPolicy`).
        store: Where features rest: a folder (made, or continued), an open store, or a temporary folder if not given.
        activation: Which map, for recipes that give several.
        flip: Match from the source or its mirrored copy, whichever is more like the target.
        joint_pca: Project the features of each pair on so many joint principal components first.
        seed: Of the bootstrap.

    Raises:
        DatasetError: A picture cannot be used, or is not of the annotated size, or no pair can be scored.
        InvalidValueError: The prompts do not fit the dataset, or flip and joint_pca are both asked for.
    """
    if flip and joint_pca:
        raise InvalidValueError("Mirrored sources and a joint PCA cannot be combined; leave one of them out.")
    template = getattr(extractor.recipe, "template", "{}")
    texts = picture_texts(dataset, prompts, template)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="diffeat-")))
        where = store if store is not None else folder / "features"
        if not isinstance(where, FeatureStore):
            recipe = extractor.recipe
            where = FeatureStore.open_or_create(where, recipe.content(), recipe.hash, weights=extractor.fingerprint)
            stack.enter_context(where)
        copies: dict[Path, Path] = {}
        if flip:
            sources = list(dict.fromkeys(p.source for p in dataset))
            copies = mirrored_pictures(sources, where.path.parent / "mirrored")
            texts = {**texts, **{copy: texts[path] for path, copy in copies.items()}}
        start = time.perf_counter()
        summary = extract_pictures(extractor, texts, where, progress)
        extracted = time.perf_counter() - start
        scorer = Scorer(PictureFeatures(where, protocol.matching, activation), protocol, copies, joint_pca)
        start = time.perf_counter()
        predictions = scorer.run(dataset, progress)
        matched = time.perf_counter() - start
        example = scorer.example
    if not predictions:
        reasons = "; ".join(f"{n}: {r}" for n, r in list(scorer.left_out.items())[:3])
        raise DatasetError(f"No pair of {dataset.name} can be scored ({reasons}).")
    notes = [*dataset.notes, *scorer.notes(), *_text_notes(prompts, example), *_frame_notes(protocol, example)]
    result = pck([p.record for p in predictions], protocol, seed=seed, notes=notes)
    return Evaluation(
        dataset=f"{dataset.name} {dataset.split}".strip(),
        recipe=extractor.recipe.name,
        recipe_hash=extractor.recipe.hash,
        result=result,
        predictions=tuple(predictions),
        left_out=scorer.left_out,
        seconds={"extraction": extracted, "matching": matched},
        pictures={"extracted": len(summary.extracted), "present": len(summary.present)},
        settings={
            "recipe": extractor.recipe.content(),
            "frame": example.frame.to_dict() if example else None,
            "prompts": prompts if prompts is None or isinstance(prompts, str) else dict(prompts),
            "flip": flip,
            **({"joint_pca": joint_pca} if joint_pca else {}),
        },
    )


class Scorer:
    """Predictions of all pairs, and what had to be left out or moved."""

    def __init__(
        self, pictures: PictureFeatures, protocol: Protocol, copies: dict[Path, Path], joint_pca: int | None = None
    ) -> None:
        self._pictures = pictures
        self._protocol = protocol
        self._copies = copies
        self._joint_pca = joint_pca
        self.left_out: dict[str, str] = {}
        self.example: FeatureMap | None = None
        self._moved = 0
        self._mirrored = 0

    def run(self, dataset: PairDataset, progress: Progress) -> list[PairPrediction]:
        # By target, so that a prepared target serves all its pairs in a row.
        order = sorted(range(len(dataset)), key=lambda i: (dataset[i].category, str(dataset[i].target), i))
        found: dict[int, PairPrediction] = {}
        for i in progress(order, total=len(order), desc="match"):
            pair = dataset[i]
            reason = self._why_not(pair)
            if reason:
                self.left_out[pair.name] = reason
            else:
                found[i] = self._predict(pair)
        return [found[i] for i in sorted(found)]

    def notes(self) -> list[str]:
        reasons = Counter(self.left_out.values())
        notes = [f"{n} pairs left out: {reason}" for reason, n in sorted(reasons.items())]
        if self._moved:
            notes.append(f"{self._moved} source points outside their picture were moved to its border")
        if self._copies:
            notes.append(f"the mirrored source was used for {self._mirrored} pairs")
        if self._joint_pca:
            notes.append(f"features of each pair were projected on {self._joint_pca} joint principal components")
        return notes

    def _why_not(self, pair: PointPair) -> str:
        if not pair.source_points:
            return "no keypoint"
        values = [v for p in (*pair.source_points, *pair.target_points) for v in p]
        if not all(math.isfinite(v) for v in values):
            return "a keypoint is not a number"
        if self._protocol.reference == "bbox":
            if pair.target_box is None:
                return "no target box"
            if not _has_area(pair.target_box):
                return "target box without area"
        return ""

    def _predict(self, pair: PointPair) -> PairPrediction:
        source = self._pictures.features(pair.source)
        if self._joint_pca:
            source, target = joint_pca_pair(source, self._pictures, pair.target, self._joint_pca)
        else:
            target = self._pictures.target(pair.target)
        self.example = self.example or source
        for feature, size in ((source, pair.source_size), (target.feature_map, pair.target_size)):
            if size is not None and size != feature.frame.original:
                raise DatasetError(
                    f"{feature.image} has {'×'.join(map(str, feature.frame.original))} pixels, but pair "
                    f"{pair.name!r} was annotated at {size[0]}×{size[1]}. Use the dataset's own pictures."
                )
        points = self._inside(pair.source_points, source.frame.original)
        if self._copies:
            mirrored = self._pictures.features(self._copies[pair.source])
            matches, used = find_pose_aligned(source, mirrored, target, points, box=pair.source_box)
            self._mirrored += used
        else:
            matches = target.find(source, points)
        record = record_pair(
            matches.target,
            pair.target_points,
            target_size=target.frame.original,
            target_box=pair.target_box if _has_area(pair.target_box) else None,
            name=pair.name,
            category=pair.category,
            images=(str(pair.source), str(pair.target)),
        )
        return PairPrediction(pair, matches, record)

    def _inside(self, points: Sequence[tuple[float, float]], size: tuple[int, int]) -> torch.Tensor:
        asked = torch.tensor(points, dtype=torch.float64)
        outside = outside_picture(asked, size)
        self._moved += int(outside.sum())
        limit = asked.new_tensor(size) - 1
        return torch.where(outside[:, None], torch.minimum(asked.clamp(min=0), limit), asked)


def _has_area(box: Box | None) -> bool:
    return box is not None and box[2] > box[0] and box[3] > box[1]


def _text_notes(prompts: PromptPolicy, example: FeatureMap | None) -> list[str]:
    text = "" if example is None else str(example.provenance.get("prompt", ""))
    if prompts is None:
        return [f"text for every picture: {text!r}"] if text else []
    if isinstance(prompts, str) and prompts != "category" and "{category}" not in prompts:
        return [f"text for every picture: {text!r}"]
    return [f"the true category of every picture was given to the model as text, e.g. {text!r}"]


def _frame_notes(protocol: Protocol, example: FeatureMap | None) -> list[str]:
    if example is None or protocol.resize in (None, example.frame.filter):
        return []
    return [
        f"pictures were resized with the {example.frame.filter} filter; the published procedure uses {protocol.resize}"
    ]
