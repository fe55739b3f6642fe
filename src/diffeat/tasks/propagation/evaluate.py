"""A recipe over videos in the layout of DAVIS: masks on disk, J&F."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffeat.datasets.davis import Video, read_mask, write_mask
from diffeat.errors import DatasetError
from diffeat.progress import Progress, silent
from diffeat.tasks.correspondence.features import FeatureSource
from diffeat.tasks.propagation.metric import boundary_score, over_frames, region_score
from diffeat.tasks.propagation.propagate import PropagationSettings, propagate_video


@dataclass(frozen=True)
class VideoScore:
    """Scores of one object.

    Attributes:
        video: Name of the sequence.
        number: Of the object.
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


def evaluate_videos(
    videos: Sequence[Video],
    extractor: FeatureSource,
    settings: PropagationSettings = PropagationSettings(),  # noqa: B008 (frozen)
    *,
    out: str | Path | None = None,
    prompt: str | None = None,
    progress: Progress = silent,
) -> list[VideoScore]:
    """Propagate the first masks through videos and score them.

    Args:
        extractor: A recipe that gives one map; the text encoders read its prompt once for all frames.
        out: Folder for the masks, ``<out>/<sequence>/00000.png`` as DAVIS' own evaluation reads them.
        prompt: Text for all frames.

    Returns:
        One score for each object; nothing for sequences of which only the first frame is annotated.

    Raises:
        DatasetError: A mask has another size than its frame.
    """
    scores: list[VideoScore] = []
    for video in progress(videos, total=len(videos), desc="videos"):
        first = read_mask(video.masks[0])  # type: ignore[arg-type]
        found = [first]
        stream = extractor.stream(list(video.frames), prompt)
        for mask in propagate_video(stream, torch.from_numpy(first.astype(np.int64)), settings):
            found.append(mask.numpy().astype(np.uint8))
        if out is not None:
            folder = Path(out) / video.name
            folder.mkdir(parents=True, exist_ok=True)
            for frame, mask in zip(video.frames, found, strict=True):
                write_mask(folder / f"{frame.stem}.png", mask)
        scores += _scores(video, found)
    return scores


def _scores(video: Video, found: Sequence[np.ndarray]) -> list[VideoScore]:
    inner = range(1, len(found) - 1)
    truth = {k: read_mask(path) for k in inner if (path := video.masks[k]) is not None}
    if not truth:
        return []
    for k, mask in truth.items():
        if mask.shape != found[k].shape:
            raise DatasetError(
                f"The mask of frame {k} of {video.name!r} is {mask.shape[1]}×{mask.shape[0]} pixels, its picture "
                f"{found[k].shape[1]}×{found[k].shape[0]}; pictures and annotations are of different resolutions."
            )
    scores = []
    for number in np.unique(found[0]):
        if number in (0, 255):  # background, and what DAVIS leaves out
            continue
        j = [region_score(found[k] == number, mask == number) for k, mask in truth.items()]
        f = [boundary_score(found[k] == number, mask == number) for k, mask in truth.items()]
        scores.append(VideoScore(video.name, int(number), over_frames(j), over_frames(f)))
    return scores
