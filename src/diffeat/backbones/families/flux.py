"""FLUX.1: packed latents, T5 tokens, a pooled CLIP text and, in the dev model, an embedded guidance scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffeat.backbones.blocks import ZERO_BOTH, BlockRule, ModulationRule
from diffeat.backbones.family import Family, Size, TokenisedText, empty
from diffeat.backbones.layout import Call, Config, TokenLayout, by_ids, grid_ids, pack_patches, unpack_patches

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Flux(Family):
    name = "flux"
    denoiser_class = "FluxTransformer2DModel"
    flow = True
    text_widths = {
        "joint_attention_dim": ("text_encoder_2.hidden_size",),
        "pooled_projection_dim": ("text_encoder.hidden_size",),
    }
    options = {"guidance_scale": 3.5}
    shared = frozenset({"img_ids", "txt_ids"})
    time = "t/1000"
    blocks = (
        BlockRule("FluxTransformerBlock", "attn", ZERO_BOTH, item=1),
        BlockRule(
            "FluxSingleTransformerBlock",
            "attn",
            {"attn": ModulationRule("norm", "norm.linear")},
            item=1,
            joint=True,
            inner="act_mlp",
        ),
    )

    def latent_channels(self, config: Config) -> int:
        return config["in_channels"] // 4

    def patch(self, config: Config) -> int:
        return 2

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Config) -> Tensor:
        return t.to(dtype) / 1000

    def pack(self, latents: Tensor) -> Tensor:
        return pack_patches(latents)

    def unpack(self, output: Tensor, latents: Tensor) -> Tensor:
        return unpack_patches(output, (latents.shape[-2], latents.shape[-1]))

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        return [TokenisedText(pipeline.tokenizer_2, prompt)]

    def layout(self, config: Config, call: Call) -> TokenLayout:
        return by_ids(call)

    def dummy(self, config: Config, latent: Size) -> Call:
        return {
            **packed_image(config, latent),
            **text_tokens(config),
            "timestep": empty(1),
            "pooled_projections": empty(1, config["pooled_projection_dim"]),
            "guidance": empty(1) if config["guidance_embeds"] else None,
        }


def packed_image(config: Config, latent: Size) -> dict[str, Any]:
    """Image tokens of 2×2 latent cells without content, and their ids."""
    h, w = latent[0] // 2, latent[1] // 2
    ids = grid_ids(h, w, len(config["axes_dims_rope"]))
    return {"hidden_states": empty(1, h * w, config["in_channels"]), "img_ids": ids}


def text_tokens(config: Config, length: int = 512) -> dict[str, Any]:
    """Text tokens without content, and their ids."""
    ids = torch.zeros(length, len(config["axes_dims_rope"]))
    return {"encoder_hidden_states": empty(1, length, config["joint_attention_dim"]), "txt_ids": ids}
