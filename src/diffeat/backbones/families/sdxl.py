"""Stable Diffusion XL and its kin (Playground v2): two text encoders, size and crop as micro-conditions."""

from __future__ import annotations

from diffeat.backbones.families.sd import StableDiffusion
from diffeat.backbones.family import Size, empty
from diffeat.backbones.layout import Call, Config


class StableDiffusionXL(StableDiffusion):
    name = "sdxl"
    text_widths = {"cross_attention_dim": ("text_encoder.hidden_size", "text_encoder_2.hidden_size")}

    def accepts(self, config: Config) -> bool:
        return config.get("addition_embed_type") == "text_time"

    def dummy(self, config: Config, latent: Size) -> Call:
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        added = {"text_embeds": empty(1, pooled), "time_ids": empty(1, 6)}
        return dict(super().dummy(config, latent)) | {"added_cond_kwargs": added}
