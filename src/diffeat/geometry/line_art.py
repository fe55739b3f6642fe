"""Line drawings of a picture, as ControlNets are shown them: from RGB bytes ``(H, W, 3)`` to ``(H, W)`` in [0, 1].

:func:`canny` is, pixel for pixel, ``cv2.Canny``, with whose thresholds 100 and 200 on unsmoothed pictures the published
edge ControlNets were trained: where 3×3 Sobel differences sum to G = ``abs(Gx) + abs(Gy)`` above the low threshold, a
pixel is kept if G is a maximum along the gradient, which is horizontal, vertical or diagonal by the tangents of 22.5°
and 67.5° in fixed point; kept pixels count where they hang together, eight neighbours each, with one above the high
threshold. :func:`soft_edges` and :func:`scribble` are drawings of our own: the published nets of these names were shown
those of trained detectors.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from diffeat.errors import InvalidValueError

_ONE = 1 << 15
_TAN_22 = round((2**0.5 - 1) * _ONE)


def canny(picture: np.ndarray, low: float = 100, high: float = 200) -> np.ndarray:
    """Edges as white lines on black.

    Args:
        picture: Bytes, (H, W, channels) or (H, W); of several channels a pixel's steepest counts.
        low: Gradients above this go on with an edge; in sums of absolute differences of bytes, up to 2040.
        high: Gradients above this begin one; the two may be swapped.

    Raises:
        InvalidValueError: Not a picture of bytes.
    """
    if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or not picture.size:
        raise InvalidValueError(f"Edges are those of bytes (H, W, 3), got {picture.dtype} of shape {picture.shape}.")
    low, high = sorted((np.floor(low), np.floor(high)))
    gx, gy = _steepest(picture if picture.ndim == 3 else picture[..., None])
    strength = np.pad(abs(gx) + abs(gy), 1)

    def neighbour(dy: int, dx: int) -> np.ndarray:
        return strength[1 + dy : 1 + dy + gx.shape[0], 1 + dx : 1 + dx + gx.shape[1]]

    here = neighbour(0, 0)
    tangent, rise = abs(gx) * _TAN_22, abs(gy) * _ONE
    flat, steep = rise < tangent, rise > tangent + abs(gx) * 2 * _ONE  # tan 67.5° = tan 22.5° + 2
    falling = (gx < 0) != (gy < 0)
    ridge = np.select(
        [flat, steep, falling],
        [
            (here > neighbour(0, -1)) & (here >= neighbour(0, 1)),
            (here > neighbour(-1, 0)) & (here >= neighbour(1, 0)),
            (here > neighbour(-1, 1)) & (here > neighbour(1, -1)),
        ],
        (here > neighbour(-1, -1)) & (here > neighbour(1, 1)),
    )
    ridge &= here > low
    lines = np.zeros(ridge.shape, np.int32)
    ndimage.label(ridge, np.ones((3, 3)), output=lines)
    begun = np.zeros(lines.max() + 1, bool)
    begun[lines[ridge & (here > high)]] = True
    return begun[lines].astype(np.float32)


def _steepest(picture: np.ndarray) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Sobel's differences along x and y (int32) in the channel where they are largest, the first of equals."""
    padded = np.pad(picture.astype(np.int32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    across, down = padded[:, 2:] - padded[:, :-2], padded[2:] - padded[:-2]
    gx = across[:-2] + 2 * across[1:-1] + across[2:]
    gy = down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]
    channel = (abs(gx) + abs(gy)).argmax(2)[..., None]
    return np.take_along_axis(gx, channel, 2)[..., 0], np.take_along_axis(gy, channel, 2)[..., 0]


def soft_edges(picture: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Length of the gradient, 1 at the strongest edges: keeps faint edges that a threshold drops."""
    from skimage.color import rgb2gray
    from skimage.filters import gaussian, sobel

    strength = sobel(gaussian(rgb2gray(picture), sigma))
    return np.clip(strength / max(float(np.quantile(strength, 0.99)), 1e-6), 0, 1).astype(np.float32)


def scribble(picture: np.ndarray) -> np.ndarray:
    """Thick strokes along the main contours, white on black."""
    from skimage.color import rgb2gray
    from skimage.feature import canny as detect
    from skimage.morphology import dilation, disk

    size = max(picture.shape[:2])
    lines = detect(rgb2gray(picture), sigma=max(1.0, size / 170), low_threshold=0.05, high_threshold=0.15)
    return dilation(lines, disk(max(1, size // 170))).astype(np.float32)


LINE_ART: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "canny": canny,
    "soft-edges": soft_edges,
    "scribble": scribble,
}
