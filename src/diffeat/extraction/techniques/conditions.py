"""Pictures that tell a ControlNet about the input, computed from the input itself.

A condition takes an RGB picture ``(H, W, 3)`` of bytes and returns ``(H, W)`` or ``(H, W, 3)`` in [0, 1].

Published edge ControlNets were trained on OpenCV's detector with thresholds 100 and 200 on unsmoothed 8-bit pictures;
:func:`canny` uses those thresholds with scikit-image on the grey picture (OpenCV adds absolute gradients where
scikit-image takes their length, and takes the strongest of three channels, so single pixels differ).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffeat.errors import InvalidValueError, ModelError, did_you_mean
from diffeat.extraction.techniques.named import load_function

Condition = Callable[[np.ndarray], np.ndarray]

_DEPTH = "depth"
_DEPTH_MODEL = "Intel/dpt-hybrid-midas"


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


CONDITIONS: dict[str, Condition] = {"canny": canny, "soft-edges": soft_edges, "scribble": scribble}


def find_condition(name: str | Condition) -> Condition:
    """A condition by name.

    Args:
        name: ``canny``, ``soft-edges``, ``scribble``, ``depth`` or ``depth:MODEL`` (a transformers depth model, hub id
            or folder), ``module:function``, or a function.

    Raises:
        InvalidValueError: If there is no such condition.
    """
    if callable(name):
        return name
    if name in CONDITIONS:
        return CONDITIONS[name]
    if name == _DEPTH or name.startswith(_DEPTH + ":"):
        return _depth(name.partition(":")[2] or _DEPTH_MODEL)
    if ":" in name:
        return load_function(name)
    hint = did_you_mean(name, [*CONDITIONS, _DEPTH])
    raise InvalidValueError(f"There is no condition {name!r}. {hint} A 'module:function' works too.")


def condition_image(condition: Condition, pixels: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """The condition of a picture in [-1, 1], as a ControlNet takes it: three channels in [0, 1].

    Raises:
        InvalidValueError: If the condition returns another size or other values.
    """
    bytes_ = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    found = np.asarray(condition(bytes_))
    h, w = bytes_.shape[:2]
    if found.shape not in {(h, w), (h, w, 1), (h, w, 3)}:
        raise InvalidValueError(
            f"The condition of a {w}×{h} picture has shape {found.shape}, not {(h, w)} or {(h, w, 3)}."
        )
    if found.dtype == np.uint8:
        found = found.astype(np.float32) / 255
    if not np.isfinite(found).all() or found.min() < 0 or found.max() > 1:
        raise InvalidValueError("A condition must hold numbers in [0, 1] (or bytes).")
    image = torch.from_numpy(np.ascontiguousarray(found, dtype=np.float32)).reshape(h, w, -1).permute(2, 0, 1)
    return image.expand(3, h, w).contiguous()


@lru_cache(maxsize=2)
def _depth(model: str) -> Condition:
    """Near is white, as published depth ControlNets expect it."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    try:
        processor: Any = AutoImageProcessor.from_pretrained(model)
        network: Any = AutoModelForDepthEstimation.from_pretrained(model).eval()
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The depth model {model!r} cannot be loaded ({error}). Give another one as 'depth:MODEL', or your own "
            "function as the condition."
        ) from None

    def depth(picture: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = network(**processor(images=Image.fromarray(picture), return_tensors="pt")).predicted_depth
        found = torch.nn.functional.interpolate(
            found[:, None].float(), size=picture.shape[:2], mode="bicubic", align_corners=False
        )[0, 0]
        return ((found - found.min()) / (found.max() - found.min()).clamp(min=1e-6)).clamp(0, 1).numpy()

    return depth
