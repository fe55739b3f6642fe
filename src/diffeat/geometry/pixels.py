"""Model images as pictures."""

from __future__ import annotations

from jaxtyping import Float
from PIL import Image
from torch import Tensor


def to_image(pixels: Float[Tensor, "3 h w"]) -> Image.Image:
    """The RGB picture of pixels in [-1, 1] (beyond, they are clipped): the nearest of 256 levels."""
    levels = ((pixels.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).numpy())
