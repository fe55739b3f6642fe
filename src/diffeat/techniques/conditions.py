"""Pictures that tell a ControlNet about the input, computed from the input itself.

A condition takes an RGB picture ``(H, W, 3)`` of bytes and returns ``(H, W)`` or ``(H, W, 3)`` in [0, 1].

Edges and scribbles are those of :mod:`diffeat.geometry.line_art`. Depth is a ``transformers`` model's, at the size of
its processor; the annotator of the published nets (``MidasDetector``) runs MiDaS at a shorter side of 512 and rounds to
bytes, so that its maps differ.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from diffeat.backbones.files import said
from diffeat.backbones.hub import near_part
from diffeat.errors import InvalidValueError, ModelError, did_you_mean, shown
from diffeat.geometry import to_image
from diffeat.geometry.line_art import LINE_ART
from diffeat.techniques.named import load_function

Condition = Callable[[np.ndarray], np.ndarray]

_DEPTH = "depth"
_DEPTH_MODEL = "Intel/dpt-hybrid-midas"


CONDITIONS: dict[str, Condition] = dict(LINE_ART)


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
    if (model := depth_model(name)) is not None:
        return _depth(model)
    if ":" in name:
        return load_function(name)
    hint = did_you_mean(name, [*CONDITIONS, _DEPTH])
    raise InvalidValueError(f"There is no condition {shown(name)}. {hint} A 'module:function' works too.")


def depth_model(name: str | Condition) -> str | None:
    """The model that a condition runs, if it is one of depth."""
    kind, _, model = name.partition(":") if isinstance(name, str) else ("", "", "")
    return (model or _DEPTH_MODEL) if kind == _DEPTH else None


def condition_image(condition: Condition, pixels: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 h w"]:
    """The condition of a picture in [-1, 1], as a ControlNet takes it: three channels in [0, 1].

    Raises:
        InvalidValueError: If the condition returns another size or other values.
    """
    bytes_ = np.array(to_image(pixels))
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

    model = near_part(model)
    try:
        processor = AutoImageProcessor.from_pretrained(model, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):
            network = AutoModelForDepthEstimation.from_pretrained(model, trust_remote_code=False).eval()
    except Exception as error:  # anything a damaged or foreign folder provokes inside the loaders
        raise ModelError(
            f"The depth model {model!r} cannot be loaded ({said(error)}). Give another one as 'depth:MODEL', or a "
            "function of your own as the condition."
        ) from None

    def depth(picture: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = network(**processor(images=Image.fromarray(picture), return_tensors="pt")).predicted_depth
        found = torch.nn.functional.interpolate(
            found[:, None].float(), size=picture.shape[:2], mode="bicubic", align_corners=False
        )[0, 0]
        return ((found - found.min()) / (found.max() - found.min()).clamp(min=1e-6)).clamp(0, 1).numpy()

    return depth
