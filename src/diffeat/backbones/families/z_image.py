"""Z-Image: lists instead of batches, time and velocity reversed as in Lumina."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffeat.backbones.family import Family, TokenisedText


class ZImage(Family):
    name = "z-image"
    denoiser_class = "ZImageTransformer2DModel"
    flow = True
    options: ClassVar = {"guidance_scale": 0.0}
    latent_argument = "x"
    timestep_argument = "t"

    def patch(self, config: Mapping[str, Any]) -> int:
        return config["all_patch_size"][0]

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Mapping[str, Any]) -> Tensor:
        return (1000 - t) / 1000

    def pack(self, latents: Tensor) -> list[Tensor]:
        return list(latents[:, :, None])

    def unpack(self, output: list[Tensor], latents: Tensor) -> Tensor:
        return -torch.stack(list(output))[:, :, 0]

    def texts(self, pipeline: Any, prompt: str) -> list[TokenisedText]:
        chat = [{"role": "user", "content": prompt}]
        text = pipeline.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return [TokenisedText(pipeline.tokenizer, text)]
