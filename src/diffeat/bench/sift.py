"""SIFT of scikit-image as a way to answer for any point: the way of the nearest sparse match."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffeat.errors import InvalidValueError
from diffeat.geometry import FrameSpec, open_image

#: Larger pictures are reduced: scikit-image takes minutes for one of a megapixel.
LONGER = 640


def sift_matches(
    source: Path, target: Path, points: NDArray[np.float64], max_ratio: float = 0.8
) -> NDArray[np.float64]:
    """Where ``points`` (x, y) of the source lie in the target: each moves as the nearest SIFT match does.

    Matches choose each other and pass the ratio test (Lowe 2004).

    Raises:
        InvalidValueError: No keypoint was matched.
    """
    from skimage.feature import match_descriptors

    (one, first), (other, second) = (_keypoints(path) for path in (source, target))
    pairs = match_descriptors(first, second, max_ratio=max_ratio, cross_check=True)
    if len(pairs) == 0:
        raise InvalidValueError(f"SIFT finds no match between {source} and {target}.")
    one, other = one[pairs[:, 0]], other[pairs[:, 1]]
    nearest = ((points[:, None] - one[None]) ** 2).sum(2).argmin(1)
    return points + (other - one)[nearest]


def _keypoints(path: Path) -> tuple[NDArray[np.float64], Any]:
    """Keypoints (x, y) in original pixels, and their descriptors."""
    from skimage.feature import SIFT

    image = open_image(path)
    frame = FrameSpec("keep", longer=min(LONGER, max(image.size))).frame(image.size)
    sift = SIFT()
    sift.detect_and_extract(frame.pixels(image).add(1).div(2).mean(0).double().numpy())
    found = np.ascontiguousarray(np.asarray(sift.keypoints, dtype=np.float64)[:, ::-1])
    return frame.points_to_original(torch.from_numpy(found)).numpy(), sift.descriptors
