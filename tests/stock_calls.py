"""Random arguments for a tiny denoiser's forward pass, of the shapes that diffeat's own dummies have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffeat.backbones import dummy_inputs

_UNBATCHED = ("img_ids", "txt_ids", "image_rotary_emb")


def denoiser_of(pipeline: Any) -> nn.Module:
    return getattr(pipeline, "transformer", None) or pipeline.unet


def forward_kwargs(denoiser: nn.Module, latent: tuple[int, int] | None = None, batch: int = 2) -> dict[str, Any]:
    """Seeded arguments for ``batch`` different samples."""
    generator = torch.Generator().manual_seed(7)

    def fill(name: str, value: Any, rows: int) -> Any:
        if isinstance(value, Tensor):
            return _random(name, value, rows, generator)
        if isinstance(value, dict):
            return {k: fill(k, v, rows) for k, v in value.items()}
        if isinstance(value, list):
            return [fill(name, value[0], 1) for _ in range(rows)]
        if isinstance(value, tuple):
            return tuple(fill(name, v, 1) for v in value)
        return value

    inputs = dummy_inputs(denoiser, latent)
    return {k: fill(k, v, 1 if k in _UNBATCHED else batch) for k, v in inputs.items()}


def _random(name: str, like: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    if name in ("timestep", "t"):
        return torch.full((rows,), 0.26)
    if name == "guidance":
        return torch.full((rows,), 3.5)
    if not like.is_meta:
        return like.clone() if name in _UNBATCHED else like.repeat(rows, *[1] * (like.dim() - 1))
    shape = like.shape if name in ("x", "cap_feats") else (rows * like.shape[0], *like.shape[1:])
    if not like.is_floating_point():
        return torch.zeros(shape, dtype=like.dtype)
    if "mask" in name:
        return torch.ones(shape)
    return torch.randn(shape, generator=generator)
