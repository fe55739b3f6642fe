"""Sana: a 32× deep-compression autoencoder and Gemma tokens behind an instruction that is cut off again."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffeat.backbones.blocks import SINGLE_BOTH, BlockRule
from diffeat.backbones.family import Family, Size, TokenisedText, plain_call
from diffeat.backbones.layout import Call, Config

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Sana(Family):
    name = "sana"
    denoiser_class = "SanaTransformer2DModel"
    flow = True
    text_widths = {"caption_channels": ("text_encoder.hidden_size",)}
    options = {"guidance_scale": 1.0, "use_resolution_binning": False}
    latent_stride = 32
    blocks = (BlockRule("SanaTransformerBlock", "attn1", SINGLE_BOTH),)
    text_modules = frozenset({"caption_projection", "caption_norm"})

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Config) -> Tensor:
        return t * config.get("timestep_scale", 1.0)

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        instruction = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        before = "\n".join(instruction)
        # the pipeline keeps the first token and the last ones: the instruction but for its first and last token goes
        cut = len(pipeline.tokenizer.encode(before)) - 2
        return [TokenisedText(pipeline.tokenizer, before + prompt.lower().strip(), offset=-cut)]

    def dummy(self, config: Config, latent: Size) -> Call:
        return plain_call(config, latent, 300, "caption_channels")
