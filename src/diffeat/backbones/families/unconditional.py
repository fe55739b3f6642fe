"""Unconditional denoisers of pixels (DDPM and ADM style)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from diffeat.backbones.family import Family, Size, TokenisedText, empty
from diffeat.backbones.layout import Call, Config
from diffeat.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Unconditional(Family):
    name = "unconditional"
    denoiser_class = "UNet2DModel"
    conditional = False
    latent_argument = "sample"
    latent_stride = 1

    def accepts(self, config: Config) -> bool:
        return config.get("class_embed_type") is None and config.get("num_class_embeds") is None

    def patch(self, config: Config) -> int:
        return 2 ** (len(config["block_out_channels"]) - 1)  # each level halves, and skips must fit again

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        raise ModelError("This model is unconditional; it has no text sequence.")

    def dummy(self, config: Config, latent: Size) -> Call:
        """Of UNets with class labels too, which are no family of their own."""
        inputs = {"sample": empty(1, config["in_channels"], *latent), "timestep": empty(1)}
        if config["class_embed_type"] is not None or config["num_class_embeds"] is not None:
            inputs["class_labels"] = empty(1, dtype=torch.long)
        return inputs
