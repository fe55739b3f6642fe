"""Masks of a video of one's own, of which the first frame is marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffeat.evaluation.texts import one_text
from diffeat.features import FeatureMap, ImageLike, Source
from diffeat.tasks.propagation.propagate import PropagationOptions, propagate_video


def carry(
    frames: Sequence[ImageLike],
    first_mask: NDArray[np.uint8],
    source: Source[FeatureMap],
    options: PropagationOptions | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Object numbers (H, W) of every frame, the first's as they were given; frames are read one after the other.

    Args:
        frames: In their order: files, arrays, pictures of a video.
        first_mask: (H, W) object numbers of the first, 0 is background.
        source: Of a recipe that gives one map.

    Raises:
        InvalidValueError: The source gives several maps.
    """
    options = options or PropagationOptions()
    options.check_maps(source.recipe.name, source.map_names)
    yield first_mask
    features = source.stream(frames, one_text(options.prompts))
    for mask in propagate_video(features, torch.from_numpy(first_mask.astype(np.int64)), options):
        yield mask.numpy().astype(np.uint8)
