"""Stable Diffusion 3 and 3.5: 77 CLIP tokens (two encoders, side by side) followed by T5 tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffeat.backbones.blocks import ZERO, ZERO_BOTH, BlockRule
from diffeat.backbones.family import Family, Size, TokenisedText, empty, plain_call
from diffeat.backbones.layout import Call, Config, TokenLayout, map_grid, text_length

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class StableDiffusion3(Family):
    name = "sd3"
    denoiser_class = "SD3Transformer2DModel"
    flow = True
    text_widths = {
        "joint_attention_dim": ("text_encoder_3.hidden_size",),
        "pooled_projection_dim": ("text_encoder.projection_dim", "text_encoder_2.projection_dim"),
    }
    options = {"guidance_scale": 1.0}
    # the second attention of SD 3.5's first blocks reads a modulated tensor of its own
    blocks = (BlockRule("JointTransformerBlock", "attn", {**ZERO_BOTH, "attn2": ZERO.later("norm1", 6)}, item=1),)

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        length = pipeline.tokenizer_max_length
        clip = TokenisedText(pipeline.tokenizer, prompt, length=length)
        if pipeline.tokenizer_3 is None:
            return [clip]
        return [clip, TokenisedText(pipeline.tokenizer_3, prompt, offset=length)]

    def layout(self, config: Config, call: Call) -> TokenLayout:
        text = text_length(call.get("encoder_hidden_states"))
        return TokenLayout(map_grid(config, call["hidden_states"]), text=text, image_first=True)

    def dummy(self, config: Config, latent: Size) -> Call:
        pooled = empty(1, config["pooled_projection_dim"])
        return {**plain_call(config, latent, 77 + 256, "joint_attention_dim"), "pooled_projections": pooled}
