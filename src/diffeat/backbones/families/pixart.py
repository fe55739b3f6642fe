"""PixArt-α and PixArt-Σ; α at 1024 px takes the resolution and aspect ratio as micro-conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffeat.backbones.blocks import SINGLE_BOTH, BlockRule
from diffeat.backbones.family import Family, Size, TokenisedText, empty, plain_call
from diffeat.backbones.layout import Call, Config

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class PixArt(Family):
    name = "pixart"
    denoiser_class = "PixArtTransformer2DModel"
    text_widths = {"caption_channels": ("text_encoder.hidden_size",)}
    options = {"guidance_scale": 1.0, "use_resolution_binning": False, "clean_caption": False}
    blocks = (BlockRule("BasicTransformerBlock", "attn1", SINGLE_BOTH, norm_type="ada_norm_single"),)
    text_modules = frozenset({"caption_projection"})

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        return [TokenisedText(pipeline.tokenizer, prompt.lower().strip())]

    def dummy(self, config: Config, latent: Size) -> Call:
        micro = config["use_additional_conditions"]
        micro = config["sample_size"] == 128 if micro is None else micro
        return {
            **plain_call(config, latent, 300, "caption_channels"),
            "added_cond_kwargs": {
                "resolution": empty(1, 2) if micro else None,
                "aspect_ratio": empty(1, 1) if micro else None,
            },
        }
