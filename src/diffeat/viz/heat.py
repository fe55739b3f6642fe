"""Heat maps over pictures: bright and warm where the map is high, the dimmed picture elsewhere."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffeat.errors import InvalidValueError


def heat_overlay(
    image: Image.Image, values: Tensor, low: float | None = None, high: float | None = None, strength: float = 0.85
) -> Image.Image:
    """Lay a map over a picture.

    Args:
        values: A map ``(h, w)`` over the whole picture, any grid; cells that are not finite count as ``low``.
        low: The value that leaves the picture bare; the map's 1st percentile if not given.
        high: The value of full heat; the map's 99.5th percentile if not given.
        strength: How much of the picture the hottest spot covers, 0 to 1.

    Returns:
        An RGB picture of the same size.

    Raises:
        InvalidValueError: The map is not two-dimensional.
    """
    import matplotlib

    if values.ndim != 2 or 0 in values.shape:
        raise InvalidValueError(f"A heat map (h, w) is wanted, got shape {tuple(values.shape)}.")
    heat = values.detach().cpu().float()
    finite = heat[torch.isfinite(heat)]
    if len(finite) == 0:
        finite = torch.zeros(1)
    thinned = finite[:: -(-len(finite) // 1_000_000)]
    bottom = torch.quantile(thinned, 0.01).item() if low is None else low
    top = torch.quantile(thinned, 0.995).item() if high is None else high
    heat = torch.where(torch.isfinite(heat), heat, bottom)
    heat = ((heat - bottom) / max(top - bottom, 1e-12)).clamp(0, 1)
    shade = Image.fromarray(heat.numpy()).resize(image.size, Image.Resampling.BICUBIC)
    weight = np.clip(np.asarray(shade, dtype=np.float32), 0, 1)[..., None]
    photo = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    grey = photo.mean(-1, keepdims=True)
    dimmed = 0.55 * (0.5 * photo + 0.5 * grey) + 0.05
    colour = matplotlib.colormaps["inferno"](0.15 + 0.8 * weight[..., 0])[..., :3]
    cover = strength * weight**0.8
    mixed = dimmed * (1 - cover) + colour * cover
    return Image.fromarray(np.rint(mixed * 255).clip(0, 255).astype(np.uint8))
