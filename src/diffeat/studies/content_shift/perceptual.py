"""Distances between pictures by weights of a vision network: DINO's patch tokens, LPIPS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeat.errors import InvalidValueError, ModelError
from diffeat.geometry import to_image

Measure = Callable[[Tensor, Tensor], float]


def dino_shift(model: str) -> Measure:
    """1 − mean cosine between patch tokens of a vision transformer, e.g. ``"facebook/dinov2-base"``.

    Raises:
        ModelError: If the model cannot be loaded.
    """
    from diffeat.extraction.vision import VisionExtractor

    extractor = VisionExtractor.from_pretrained(model)

    def measure(found: Tensor, true: Tensor) -> float:
        one, two = (f.tensor.double() for f in extractor.stream([to_image(found), to_image(true)]))
        return 1 - float(F.cosine_similarity(one, two, dim=0).mean())

    return measure


def lpips_shift(network: str = "alex") -> Measure:
    """LPIPS (Zhang et al. 2018) by the ``lpips`` package, where it is installed with its weights.

    Raises:
        ModelError: If the package or its weights are not there.
    """
    try:
        import lpips  # type: ignore[import-not-found]

        measured: Any = lpips.LPIPS(net=network, verbose=False).eval()
    except Exception as error:  # a missing package, torchvision or download
        raise ModelError(
            f"LPIPS needs the package lpips with its weights ({type(error).__name__}: {error}). Leave the measure out, "
            "or use 'dino:MODEL'."
        ) from None

    @torch.no_grad()
    def measure(found: Tensor, true: Tensor) -> float:
        return float(measured(found.float()[None].cpu(), true.float()[None].cpu()))

    return measure


def weighted_measure(name: str) -> Measure:
    """``dino:MODEL`` or ``lpips``.

    Raises:
        InvalidValueError: For another name.
        ModelError: If the weights are not there.
    """
    kind, _, model = name.partition(":")
    if kind == "dino" and model:
        return dino_shift(model)
    if kind == "lpips":
        return lpips_shift(model or "alex")
    raise InvalidValueError(f"{name!r} is no measure by weights: use 'dino:MODEL' or 'lpips'.")
