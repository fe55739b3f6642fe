"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from typing import Any

import torch

from diffeat.backbones.blocks import BlockRule
from diffeat.backbones.family import Family, Size, empty
from diffeat.backbones.layout import Call, Config


class StableDiffusion(Family):
    name = "sd"
    denoiser_class = "UNet2DConditionModel"
    options = {"guidance_scale": 1.0}
    latent_argument = "sample"
    pipeline_multiple = 8
    text_widths = {"cross_attention_dim": ("text_encoder.hidden_size",)}
    blocks = (BlockRule("BasicTransformerBlock", "attn1", modulation={}),)
    text_modules = frozenset({"encoder_hid_proj"})

    def accepts(self, config: Config) -> bool:
        plain = ("addition_embed_type", "encoder_hid_dim_type", "class_embed_type", "time_cond_proj_dim")
        return all(config.get(entry) is None for entry in plain)

    def dummy(self, config: Config, latent: Size) -> Call:
        """Of UNets with class labels too, which are no family of their own."""
        width = config["encoder_hid_dim"] or config["cross_attention_dim"]
        width = width[0] if isinstance(width, (tuple, list)) else width
        inputs: dict[str, Any] = {
            "sample": empty(1, config["in_channels"], *latent),
            "timestep": empty(1),
            "encoder_hidden_states": empty(1, 77, width),
        }
        if config["class_embed_type"] in ("projection", "simple_projection"):
            inputs["class_labels"] = empty(1, config["projection_class_embeddings_input_dim"])
        elif config["num_class_embeds"] or config["class_embed_type"] == "timestep":
            inputs["class_labels"] = empty(1, dtype=torch.long)
        return inputs
