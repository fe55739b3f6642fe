"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from diffeat.backbones.family import Family


class StableDiffusion(Family):
    name = "sd"
    denoiser_class = "UNet2DConditionModel"
    options: ClassVar = {"guidance_scale": 1.0}
    latent_argument = "sample"
    pipeline_multiple = 8

    def accepts(self, config: Mapping[str, Any]) -> bool:
        plain = ("addition_embed_type", "encoder_hid_dim_type", "class_embed_type", "time_cond_proj_dim")
        return all(config.get(entry) is None for entry in plain)
