"""FLUX.1: packed latents, T5 tokens, a pooled CLIP text and, in the dev model, an embedded guidance scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffeat.backbones.family import Family, TokenisedText
from diffeat.backbones.packing import pack_patches, unpack_patches


class Flux(Family):
    name = "flux"
    denoiser_class = "FluxTransformer2DModel"
    flow = True
    options: ClassVar = {"guidance_scale": 3.5}
    shared = frozenset({"img_ids", "txt_ids"})

    def patch(self, config: Mapping[str, Any]) -> int:
        return 2

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Mapping[str, Any]) -> Tensor:
        return t.to(dtype) / 1000

    def pack(self, latents: Tensor) -> Tensor:
        return pack_patches(latents)

    def unpack(self, output: Tensor, latents: Tensor) -> Tensor:
        return unpack_patches(output, (latents.shape[-2], latents.shape[-1]))

    def texts(self, pipeline: Any, prompt: str) -> list[TokenisedText]:
        return [TokenisedText(pipeline.tokenizer_2, prompt)]
