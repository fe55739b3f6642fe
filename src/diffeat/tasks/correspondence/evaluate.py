"""A recipe over a correspondence dataset: predictions, errors, numbers.

Each picture is extracted once, whatever the number of its pairs, into a store that a later run goes on with. Pairs
that cannot be scored are left out and counted; nothing is scored silently.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from pydantic import Field, field_validator

from diffeat.ambient import neutral
from diffeat.datasets.pairs import PairDataset, PointPair
from diffeat.datasets.registry import DATASETS
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.evaluation.features import Kept, Loads, Store, features_of
from diffeat.evaluation.intervals import Interval
from diffeat.evaluation.result import ShownResult, Table, check_alike, joined
from diffeat.evaluation.task import Task, TaskOptions, suggested
from diffeat.evaluation.texts import PromptPolicy, picture_texts, precision_notes, text_notes
from diffeat.features import FeatureMap, Source, check_one_map
from diffeat.progress import Progress, silent
from diffeat.tasks.correspondence.flip import find_pose_aligned
from diffeat.tasks.correspondence.joint_pca import joint_pca_pair
from diffeat.tasks.correspondence.keypoints import PairRecord, PckResult, pck, record_pair
from diffeat.tasks.correspondence.matching import Matches, Target, outside_picture
from diffeat.tasks.correspondence.protocol import AVERAGES, PROTOCOLS, Protocol, get_protocol
from diffeat.tasks.correspondence.scorable import check_scorable, has_area, why_not


class CorrespondenceOptions(TaskOptions):
    """How pairs are matched and scored."""

    protocol: str | None = Field(
        default=None,
        description=f"How pairs are matched and scored: {', '.join(PROTOCOLS)}. The dataset's usual one if not given.",
    )
    threshold: tuple[float, ...] = Field(default=(), description="Replaces the protocol's thresholds α; repeatable.")
    average: str | None = Field(default=None, description=f"Replaces the protocol's average: {', '.join(AVERAGES)}.")
    flip: bool = Field(default=False, description="Also match from the mirrored source, and take the better.")
    joint_pca: int | None = Field(
        default=None, ge=1, description="Project each pair's features on so many joint principal components."
    )

    @field_validator("protocol")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        return name if name is None else get_protocol(name).name

    def model_post_init(self, _: object) -> None:
        self.protocol_for("spair")  # refuses thresholds and averages before anything is read
        _check_together(self.flip, self.joint_pca)

    def protocol_for(self, usual: str) -> Protocol:
        """The protocol, with what replaces parts of it.

        Args:
            usual: Name of the dataset's own.
        """
        protocol = get_protocol(self.protocol or usual)
        if self.threshold:
            protocol = protocol.replace(alphas=self.threshold)
        return protocol.replace(average=self.average) if self.average else protocol


@dataclass(frozen=True)
class PairPrediction:
    """What was predicted for one pair: the pair, the points found, and their errors."""

    pair: PointPair
    matches: Matches
    record: PairRecord


@dataclass
class Tally:
    """What happened on the way to the predictions.

    Attributes:
        left_out: Pairs that could not be scored, with the reason.
        mirrored: Pairs that the mirrored source was used for, ``None`` where it was not tried.
    """

    left_out: dict[str, str] = field(default_factory=dict)
    moved: int = 0
    mirrored: int | None = None

    def notes(self) -> list[str]:
        """As sentences."""
        reasons = Counter(self.left_out.values())
        notes = [f"{n} pairs left out: {reason}" for reason, n in sorted(reasons.items())]
        if self.moved:
            notes.append(f"{self.moved} source points outside their picture were moved to its border")
        if self.mirrored is not None:
            notes.append(f"the mirrored source was used for {self.mirrored} pairs")
        return notes

    def __add__(self, other: Tally) -> Tally:
        mirrored = None if self.mirrored is None else self.mirrored + (other.mirrored or 0)
        return Tally(self.left_out | other.left_out, self.moved + other.moved, mirrored)


@dataclass(frozen=True, repr=False)
class Evaluation(ShownResult):
    """The outcome of :func:`evaluate`, a :class:`~diffeat.evaluation.Result`.

    Attributes:
        dataset: Name and split.
        predictions: Every scored pair, in the dataset's order.
        remarks: What else a reader of the numbers must know.
        seconds: Time of extraction and of matching.
        pictures: How many were extracted by this run and how many were there.
        settings: Whatever else changes the numbers.
    """

    dataset: str
    recipe: str
    recipe_hash: str
    protocol: Protocol
    predictions: tuple[PairPrediction, ...]
    tally: Tally
    remarks: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def records(self) -> list[PairRecord]:
        """Errors of every scored pair."""
        return [p.record for p in self.predictions]

    @property
    def left_out(self) -> dict[str, str]:
        """Pairs that could not be scored, with the reason."""
        return self.tally.left_out

    @property
    def notes(self) -> list[str]:
        return [*self.tally.notes(), *self.remarks]

    @cached_property
    def result(self) -> PckResult:
        """Scores, with their protocol and notes."""
        return pck(self.records, self.protocol, notes=self.notes)

    @property
    def value(self) -> float:
        return self.result.value

    def interval(self) -> Interval:
        return self.result.intervals[self.protocol.alpha]

    def table(self) -> Table:
        return self.result.table()

    def merge(self, other: Evaluation) -> Evaluation:
        """Both parts' pairs, scored again together."""
        check_alike(self, other, "protocol", "settings")
        return replace(
            self,
            predictions=(*self.predictions, *other.predictions),
            tally=self.tally + other.tally,
            remarks=joined(self.remarks, other.remarks),
            seconds={k: v + other.seconds[k] for k, v in self.seconds.items()},
            pictures={k: v + other.pictures[k] for k, v in self.pictures.items()},
        )

    def __str__(self) -> str:
        return f"{self.dataset}, recipe {self.recipe}\n{self.result}"


def evaluate(
    data: PairDataset,
    source: Source[FeatureMap],
    protocol: Protocol,
    *,
    prompts: PromptPolicy = None,
    activation: str | None = None,
    flip: bool = False,
    joint_pca: int | None = None,
    store: Store = None,
    progress: Progress = silent,
) -> Evaluation:
    """Score a recipe on a dataset by a protocol.

    Args:
        prompts: Text for the pictures (see :data:`~diffeat.evaluation.texts.PromptPolicy`); by default what the
            protocol tells the model (:meth:`Protocol.prompts`).
        flip: Match from the source or its mirrored copy, whichever is more like the target.
        joint_pca: Project the features of each pair on so many joint principal components first.
        store: Where features rest: a folder (made, or gone on with), an open store, or a temporary folder if not given.

    Raises:
        DatasetError: A picture cannot be used, or is not of the annotated size, or no pair can be scored.
        InvalidValueError: The prompts do not fit the dataset, flip and joint_pca are both asked for, or the recipe
            gives several maps and ``activation`` names none of them.
    """
    _check_together(flip, joint_pca)
    if activation is None:
        check_one_map(source.recipe.name, source.map_names)
    check_scorable(data, protocol)
    recipe = source.recipe
    prompts = protocol.prompts(prompts, recipe)
    texts = picture_texts(data, prompts, recipe.template)
    mirror = list(dict.fromkeys(p.source for p in data)) if flip else []
    start = time.perf_counter()
    with features_of(source, texts, store, mirror=mirror, progress=progress) as features:
        extracted = time.perf_counter()
        scorer = Scorer(features, protocol, features.mirrored, activation, joint_pca)
        predictions = scorer.run(data, progress)
        matched = time.perf_counter()
    remarks = [
        *text_notes(prompts, texts, recipe, named=any(data.categories)),
        *protocol.notes(prompts, recipe),
        *_frame_notes(protocol, scorer.example),
        *precision_notes(source),
    ]
    if joint_pca:
        remarks.append(f"features of each pair were projected on {joint_pca} joint principal components")
    return Evaluation(
        dataset=f"{data.name} {data.split}".strip(),
        recipe=recipe.name,
        recipe_hash=recipe.hash,
        protocol=protocol,
        predictions=tuple(predictions),
        tally=scorer.tally,
        remarks=(*data.notes, *remarks),
        seconds={"extraction": extracted - start, "matching": matched - extracted},
        pictures={"extracted": len(features.summary.extracted), "present": len(features.summary.present)},
        settings={
            "recipe": recipe.content(),
            "prompts": prompts if prompts is None or isinstance(prompts, str) else dict(prompts),
            "flip": flip,
            **({"joint_pca": joint_pca} if joint_pca else {}),
        },
    )


@neutral()
def evaluate_pairs(
    data: PairDataset,
    source: Source[FeatureMap],
    options: CorrespondenceOptions | None = None,
    *,
    store: Store = None,
    progress: Progress = silent,
) -> Evaluation:
    """:func:`evaluate` with options in place of a protocol; those that the recipe has for the task if not given."""
    options = options or CorrespondenceOptions(**suggested(source.recipe, "correspondence"))
    usual = DATASETS[data.name].protocol if data.name in DATASETS else "spair"
    if get_protocol(usual).reference == "bbox" and not any(pair.target_box for pair in data):
        usual = "picture"  # pairs of one's own
    return evaluate(
        data,
        source,
        options.protocol_for(usual),
        prompts=options.prompts,
        flip=options.flip,
        joint_pca=options.joint_pca,
        store=store,
        progress=progress,
    )


class Scorer:
    """Predictions of all pairs.

    Args:
        copies: Mirrored copies of the sources, where mirroring is tried.
        activation: Which map is matched, where there are several.
        joint_pca: Components that each pair is projected on.
    """

    def __init__(
        self,
        features: Loads,
        protocol: Protocol,
        copies: Mapping[Path, Path],
        activation: str | None = None,
        joint_pca: int | None = None,
        keep: int = 24,
    ) -> None:
        self._features, self._protocol, self._copies = features, protocol, copies
        self._activation, self._joint_pca = activation, joint_pca
        self._targets: Kept[Path, Target] = Kept(keep, lambda target: target.feature_map.bytes)
        self.tally = Tally(mirrored=0 if copies else None)
        self.example: FeatureMap | None = None

    def run(self, dataset: PairDataset, progress: Progress) -> list[PairPrediction]:
        """Predictions in the dataset's order."""
        # By target, so that a prepared target serves all its pairs in a row.
        order = sorted(range(len(dataset)), key=lambda i: (dataset[i].category, str(dataset[i].target), i))
        predictions: dict[int, PairPrediction] = {}
        for i in progress(order, total=len(order), desc="match"):
            reason = why_not(dataset[i], self._protocol)
            if reason:
                self.tally.left_out[dataset[i].name] = reason
            else:
                predictions[i] = self._predict(dataset[i])
        return [predictions[i] for i in sorted(predictions)]

    def _predict(self, pair: PointPair) -> PairPrediction:
        source, matching = self._load(pair.source), self._protocol.matching
        if self._joint_pca:
            source, projected = joint_pca_pair(source, self._load(pair.target), self._joint_pca, self._activation)
            target = Target(projected, matching)
        else:
            make = lambda: Target(self._load(pair.target), matching, self._activation)  # noqa: E731
            target = self._targets.get_or_make(pair.target, make)
        self.example = self.example or source
        for feature, size in ((source, pair.source_size), (target.feature_map, pair.target_size)):
            if size is not None and size != feature.frame.original:
                raise DatasetError(
                    f"{feature.image} has {'×'.join(map(str, feature.frame.original))} pixels, but pair "
                    f"{pair.name!r} was annotated at {size[0]}×{size[1]}. Use the dataset's own pictures."
                )
        points = self._inside(pair.source_points, source.frame.original)
        if self._copies:
            mirrored = self._load(self._copies[pair.source])
            matches, used = find_pose_aligned(source, mirrored, target, points, box=pair.source_box)
            self.tally.mirrored = (self.tally.mirrored or 0) + used
        else:
            matches = target.find(source, points)
        record = record_pair(
            matches.target,
            pair.target_points,
            target_size=target.frame.original,
            target_box=pair.target_box if has_area(pair.target_box) else None,
            name=pair.name,
            category=pair.category,
            images=(str(pair.source), str(pair.target)),
        )
        return PairPrediction(pair, matches, record)

    def _load(self, path: Path) -> FeatureMap:
        return self._features.load(path.as_posix(), None if self._activation is None else [self._activation])

    def _inside(self, points: Sequence[tuple[float, float]], size: tuple[int, int]) -> torch.Tensor:
        asked = torch.tensor(points, dtype=torch.float64)
        outside = outside_picture(asked, size)
        self.tally.moved += int(outside.sum())
        limit = asked.new_tensor(size) - 1
        return torch.where(outside[:, None], torch.minimum(asked.clamp(min=0), limit), asked)


def _check_together(flip: bool, joint_pca: int | None) -> None:
    if flip and joint_pca:
        raise InvalidValueError("Mirrored sources and a joint PCA cannot be combined; leave one of them out.")


def _frame_notes(protocol: Protocol, example: FeatureMap | None) -> list[str]:
    if example is None:
        return []
    frame, notes = example.frame, []
    if protocol.resize not in (None, frame.filter):
        notes = [
            f"pictures were resized with the {frame.filter} filter; the published procedure uses {protocol.resize}"
        ]
    if protocol.load is not None and (frame.load or frame.model) != (protocol.load,) * 2:
        given = "×".join(map(str, frame.load or frame.model))
        notes.append(
            f"pictures were given at {given}; the published procedure gives {protocol.load}×{protocol.load}, enlarged: "
            f"--set 'frame={{size: {max(frame.model)}, load: {protocol.load}, filter: {frame.filter}}}'"
        )
    return notes


TASK = Task("correspondence", "pairs", CorrespondenceOptions, evaluate_pairs, one_map=True)
