"""Line drawings of a picture, as ControlNets are shown them: from RGB bytes ``(H, W, 3)`` to ``(H, W)`` in [0, 1].

Published edge ControlNets were trained on OpenCV's detector with thresholds 100 and 200 on unsmoothed 8-bit pictures;
:func:`canny` uses those thresholds with scikit-image on the grey picture (OpenCV adds absolute gradients where
scikit-image takes their length, and takes the strongest of three channels, so single pixels differ).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def canny(picture: np.ndarray, low: float = 100 / 255, high: float = 200 / 255, sigma: float = 0.0) -> np.ndarray:
    """Edges as white lines on black."""
    from skimage.color import rgb2gray
    from skimage.feature import canny as detect

    return detect(rgb2gray(picture), sigma=sigma, low_threshold=low, high_threshold=high).astype(np.float32)


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
