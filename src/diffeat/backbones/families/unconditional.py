"""Unconditional denoisers of pixels (DDPM and ADM style)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffeat.backbones.family import Family, TokenisedText
from diffeat.errors import ModelError


class Unconditional(Family):
    name = "unconditional"
    denoiser_class = "UNet2DModel"
    conditional = False
    latent_argument = "sample"

    def accepts(self, config: Mapping[str, Any]) -> bool:
        return config.get("class_embed_type") is None and config.get("num_class_embeds") is None

    def patch(self, config: Mapping[str, Any]) -> int:
        return 2 ** (len(config["block_out_channels"]) - 1)  # each level halves, and skips must fit again

    def texts(self, pipeline: Any, prompt: str) -> list[TokenisedText]:
        raise ModelError("This model is unconditional; it has no text sequence.")
