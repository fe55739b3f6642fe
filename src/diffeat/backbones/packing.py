"""Latent maps as token sequences, for denoisers that take 2×2 patches of the latent as tokens (FLUX and kin)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def pack_patches(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
    """One token per 2×2 patch, row by row; the channels of a token run over (channel, row, column)."""
    b, c, h, w = latents.shape
    patches = latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, h // 2 * (w // 2), c * 4)


def unpack_patches(tokens: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """Inverse of :func:`pack_patches` for a latent of ``size = (h, w)``."""
    h, w = size
    patches = tokens.reshape(len(tokens), h // 2, w // 2, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(len(tokens), -1, h, w)
