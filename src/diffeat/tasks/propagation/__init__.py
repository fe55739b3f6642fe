"""Labels of a video's first frame carried through it by features, and the J&F score."""

from diffeat.tasks.propagation.evaluate import Propagation, VideoScore, evaluate_videos
from diffeat.tasks.propagation.metric import boundary_score, region_score
from diffeat.tasks.propagation.propagate import (
    PropagationOptions,
    mask_on_grid,
    propagate_labels,
    propagate_video,
    strongest_label,
)

__all__ = [
    "Propagation",
    "PropagationOptions",
    "VideoScore",
    "boundary_score",
    "evaluate_videos",
    "mask_on_grid",
    "propagate_labels",
    "propagate_video",
    "region_score",
    "strongest_label",
]
