"""Hunyuan-DiT: a bilingual CLIP text (77 tokens) followed by a T5 text (256 tokens)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffeat.backbones.blocks import BlockRule, ModulationRule
from diffeat.backbones.family import Family, Size, TokenisedText, empty
from diffeat.backbones.layout import Call, Config

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class HunyuanDiT(Family):
    name = "hunyuan-dit"
    denoiser_class = "HunyuanDiT2DModel"
    text_widths = {
        "cross_attention_dim": ("text_encoder.hidden_size",),
        "cross_attention_dim_t5": ("text_encoder_2.hidden_size",),
    }
    options = {"guidance_scale": 1.0, "use_resolution_binning": False}
    shared = frozenset({"image_rotary_emb"})
    blocks = (BlockRule("HunyuanDiTBlock", "attn1", {"attn1": ModulationRule("norm1", scale=None, gate=None)}),)

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Config) -> Tensor:
        return t.to(dtype)

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        return [
            TokenisedText(pipeline.tokenizer, prompt, length=77),
            TokenisedText(pipeline.tokenizer_2, prompt, offset=77, length=256),
        ]

    def dummy(self, config: Config, latent: Size) -> Call:
        tokens = (latent[0] // config["patch_size"]) * (latent[1] // config["patch_size"])
        clip, t5 = config["text_len"], config["text_len_t5"]
        width = config["attention_head_dim"]
        return {
            "hidden_states": empty(1, config["in_channels"], *latent),
            "timestep": empty(1),
            "encoder_hidden_states": empty(1, clip, config["cross_attention_dim"]),
            "text_embedding_mask": empty(1, clip),
            "encoder_hidden_states_t5": empty(1, t5, config["cross_attention_dim_t5"]),
            "text_embedding_mask_t5": empty(1, t5),
            "image_meta_size": empty(1, 6),
            "style": empty(1, dtype=torch.long),
            "image_rotary_emb": (empty(tokens, width), empty(tokens, width)),
        }
