"""J and F of video object segmentation (Perazzi et al., DAVIS 2016; Pont-Tuset et al., arXiv:1704.00675).

J is the intersection over union of an object's mask. F is the harmonic mean of the precision and the recall of its
outline, where an outline pixel counts as found within 0.8 % of the picture's diagonal. As in the DAVIS evaluation, the
first and the last frame are not scored; *mean* is over frames, *recall* the share of frames above 0.5, *decay* the mean
of the first quarter less that of the last; then all are averaged over objects.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffeat.errors import InvalidValueError

Mask = NDArray[np.bool_]
_BOUND = 0.008


def region_score(predicted: Mask, truth: Mask) -> float:
    """J: intersection over union; 1 where both are empty.

    Raises:
        InvalidValueError: The masks are not of one size.
    """
    _check_sizes(predicted, truth)
    union = int((predicted | truth).sum())
    return float((predicted & truth).sum() / union) if union else 1.0


def boundary_score(predicted: Mask, truth: Mask, bound: float = _BOUND) -> float:
    """F: how well the outlines agree, within ``bound`` of the diagonal (pixels, if 1 or more); raises as the former."""
    from scipy.ndimage import distance_transform_edt

    _check_sizes(predicted, truth)
    pixels = bound if bound >= 1 else math.ceil(bound * math.hypot(*truth.shape))
    one, other = outline(predicted), outline(truth)
    if not one.any() or not other.any():
        return float(not one.any() and not other.any())
    precision = float((np.asarray(distance_transform_edt(~other))[one] <= pixels).mean())
    recall = float((np.asarray(distance_transform_edt(~one))[other] <= pixels).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outline(mask: Mask) -> Mask:
    """Pixels whose right, lower or lower right neighbour is on the other side of the mask's edge."""
    found = np.zeros_like(mask)
    found[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    found[:-1] |= mask[:-1] ^ mask[1:]
    found[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return found


def _check_sizes(predicted: Mask, truth: Mask) -> None:
    if predicted.shape != truth.shape:
        raise InvalidValueError(f"Masks of one size are compared, got {predicted.shape} and {truth.shape}.")


def over_frames(scores: Sequence[float]) -> dict[str, float]:
    """Mean, recall and decay of one object's scores over its frames."""
    values = np.asarray(scores, dtype=float)
    cuts = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    quarters = [values[cuts[k] : cuts[k + 1] + 1] for k in range(4)]
    return {
        "mean": float(values.mean()),
        "recall": float((values > 0.5).mean()),
        "decay": float(quarters[0].mean() - quarters[3].mean()),
    }
