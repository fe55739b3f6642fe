"""A recipe over videos in the layout of DAVIS: masks on disk, J&F."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from diffeat.ambient import neutral
from diffeat.datasets.davis import Video, VideoDataset, write_mask
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.evaluation.features import Store, each_feature
from diffeat.evaluation.intervals import Interval, bootstrap
from diffeat.evaluation.result import ShownResult, Table, check_alike, joined
from diffeat.evaluation.task import Task, suggested
from diffeat.evaluation.texts import one_text, precision_notes, text_notes
from diffeat.features import FeatureMap, Source
from diffeat.progress import Progress, silent
from diffeat.tasks.propagation.metric import boundary_score, over_frames, region_score
from diffeat.tasks.propagation.propagate import PropagationOptions, propagate_video


@dataclass(frozen=True)
class VideoScore:
    """Scores of one object.

    Attributes:
        j: Mean, recall and decay of the region score, 0…1.
        f: Of the boundary score.
    """

    video: str
    number: int
    j: dict[str, float]
    f: dict[str, float]

    @property
    def jf(self) -> float:
        """Mean of J and F."""
        return (self.j["mean"] + self.f["mean"]) / 2


@dataclass(frozen=True, repr=False)
class Propagation(ShownResult):
    """The outcome of :func:`evaluate_videos`, a :class:`~diffeat.evaluation.Result`; numbers in percent."""

    dataset: str
    recipe: str
    recipe_hash: str
    scores: tuple[VideoScore, ...]
    videos: tuple[Video, ...]
    options: PropagationOptions
    notes: tuple[str, ...] = ()

    @property
    def value(self) -> float:
        """J&F, mean over objects."""
        return 100 * float(np.mean([s.jf for s in self.scores]))

    def interval(self) -> Interval:
        """Over videos, whose objects are drawn together."""
        units = [(100 * s.jf, 1) for s in self.scores]
        return bootstrap(units, lambda sums: sums[:, 0] / sums[:, 1], groups=[s.video for s in self.scores])

    def table(self) -> Table:
        """A row for each object, and the mean of all."""
        kinds = ("mean", "recall", "decay")
        header = ["object", "J&F", *(f"{letter} {kind}" for letter in "JF" for kind in kinds)]
        numbers = 100 * np.array([[s.jf, *(part[k] for part in (s.j, s.f) for k in kinds)] for s in self.scores])
        rows = [
            [f"{s.video} {s.number}", *(f"{v:.1f}" for v in row)] for s, row in zip(self.scores, numbers, strict=True)
        ]
        return header, [*rows, ["all", *(f"{v:.1f}" for v in numbers.mean(0))]]

    def merge(self, other: Propagation) -> Propagation:
        """The videos of both; one that is in both counts once.

        Raises:
            InvalidValueError: The parts were not propagated alike, or give a video different scores.
        """
        check_alike(self, other, "options")
        known, common = {v.name for v in self.videos}, {v.name for v in self.videos} & {v.name for v in other.videos}
        mine, theirs = ([s for s in result.scores if s.video in common] for result in (self, other))
        if mine != theirs:
            raise InvalidValueError(f"The results give different scores to {', '.join(sorted(common))}.")
        return replace(
            self,
            scores=(*self.scores, *(s for s in other.scores if s.video not in known)),
            videos=(*self.videos, *(v for v in other.videos if v.name not in known)),
            notes=joined(self.notes, other.notes),
        )

    def __str__(self) -> str:
        return (
            f"{self.dataset}, recipe {self.recipe}, label propagation ({self.options})\n"
            f"J&F {self.value:.2f} {self.interval()}; {len(self.scores)} objects in {len(self.videos)} videos"
        )


@neutral()
def evaluate_videos(
    data: VideoDataset,
    source: Source[FeatureMap],
    options: PropagationOptions | None = None,
    *,
    store: Store = None,
    progress: Progress = silent,
) -> Propagation:
    """Propagate the first masks through videos and score them.

    Args:
        source: A recipe that gives one map; its text encoders read one text for all frames.
        options: How labels are carried, and where the masks go (``<masks>/<sequence>/00000.png``); those
            that the recipe has for the task if not given.
        store: Where features rest; without one they are read off and forgotten.

    Returns:
        One score for each object; nothing for sequences of which only the first frame is annotated.

    Raises:
        DatasetError: A mask has another size than its frame, or only first frames are annotated.
    """
    options = options or PropagationOptions(**suggested(source.recipe, "propagation"))
    options.check_maps(source.recipe.name, source.map_names)
    text = one_text(options.prompts)
    unknown = sorted(options.frames_by_video.keys() - {video.name for video in data})
    data = data.only(options.video) if options.video else data
    scores: list[VideoScore] = []
    for video in progress(data, total=len(data), desc="videos"):
        first = video.first_mask
        masks = [first]
        features = each_feature(source, video.frames, text, store)
        for mask in propagate_video(features, torch.from_numpy(first.astype(np.int64)), options.of_video(video.name)):
            masks.append(mask.numpy().astype(np.uint8))
        if options.masks is not None:
            folder = options.masks / video.name
            folder.mkdir(parents=True, exist_ok=True)
            for frame, mask in zip(video.frames, masks, strict=True):
                write_mask(folder / f"{frame.stem}.png", mask)
        scores += _scores(video, masks)
    if not scores:
        where = f"; the masks are in {options.masks}" if options.masks else ""
        raise DatasetError(f"Only first frames of {data.name} are annotated, so nothing is scored{where}.")
    return Propagation(
        dataset=f"{data.name} {data.split}",
        recipe=source.recipe.name,
        recipe_hash=source.recipe.hash,
        scores=tuple(scores),
        videos=data.samples,
        options=options,
        notes=(
            *data.notes,
            *(f"another number of last frames is for {name}, which the data do not have" for name in unknown),
            *text_notes(options.prompts, {}, source.recipe),
            *precision_notes(source),
        ),
    )


def _scores(video: Video, found: Sequence[np.ndarray]) -> list[VideoScore]:
    inner = range(1, len(found) - 1)
    truth = {k: mask for k in inner if (mask := video.mask(k)) is not None}
    if not truth:
        return []
    scores = []
    for number in np.unique(found[0]):
        if number in (0, 255):  # background, and what DAVIS leaves out
            continue
        j = [region_score(found[k] == number, mask == number) for k, mask in truth.items()]
        f = [boundary_score(found[k] == number, mask == number) for k, mask in truth.items()]
        scores.append(VideoScore(video.name, int(number), over_frames(j), over_frames(f)))
    return scores


TASK = Task("propagation", "videos", PropagationOptions, evaluate_videos)
