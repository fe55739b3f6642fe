"""Lumina Image 2: time runs the other way (1 - s), and so does the predicted velocity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffeat.backbones.blocks import SCALED, BlockRule, ModulationRule
from diffeat.backbones.family import Family, Size, TokenisedText, plain_call
from diffeat.backbones.layout import Call, Config, TokenLayout, map_grid, text_length

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_NORM = ModulationRule("norm1", **SCALED)


class Lumina2(Family):
    name = "lumina2"
    denoiser_class = "Lumina2Transformer2DModel"
    flow = True
    text_widths = {"cap_feat_dim": ("text_encoder.hidden_size",)}
    options = {"guidance_scale": 1.0}
    time = "1-t/1000"
    blocks = (
        BlockRule(
            "Lumina2TransformerBlock", "attn", {"attn": _NORM, "feed_forward": _NORM.later("ffn_norm1", 2)}, joint=True
        ),
    )
    text_modules = frozenset({"context_refiner", "time_caption_embed"})
    image_stacks = frozenset({"noise_refiner"})

    def unpack(self, output: Tensor, latents: Tensor) -> Tensor:
        return -output

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        return [TokenisedText(pipeline.tokenizer, f"{pipeline.system_prompt} <Prompt Start> {prompt}")]

    def layout(self, config: Config, call: Call) -> TokenLayout:
        """Texts are packed to their true length: [text of this row, image, nothing up to the longest row]."""
        grid = map_grid(config, call["hidden_states"])
        mask = call.get("encoder_attention_mask")
        if mask is None or mask.is_meta:
            return TokenLayout(grid, text=text_length(call.get("encoder_hidden_states")))
        rows = tuple(int(n) for n in mask.sum(dim=1).tolist())
        return TokenLayout(grid, text=max(rows), rows=rows)

    def dummy(self, config: Config, latent: Size) -> Call:
        text = min(256, config["axes_lens"][0] - 1)  # the image's own position on the first axis follows the text's
        mask = torch.ones(1, text, dtype=torch.long)
        return {**plain_call(config, latent, text, "cap_feat_dim"), "encoder_attention_mask": mask}
