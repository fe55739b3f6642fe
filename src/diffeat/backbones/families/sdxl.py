"""Stable Diffusion XL and its kin (Playground v2): two text encoders, size and crop as micro-conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diffeat.backbones.family import Family


class StableDiffusionXL(Family):
    name = "sdxl"
    denoiser_class = "UNet2DConditionModel"
    options: ClassVar = {"guidance_scale": 1.0}
    latent_argument = "sample"
    pipeline_multiple = 8

    def accepts(self, config: Mapping[str, Any]) -> bool:
        return config.get("addition_embed_type") == "text_time"
