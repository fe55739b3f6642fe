"""Z-Image: lists instead of batches, time and velocity reversed as in Lumina."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffeat.backbones.blocks import SCALED, BlockRule, ModulationRule
from diffeat.backbones.family import Family, Size, TokenisedText, empty
from diffeat.backbones.layout import Call, Config, TokenLayout
from diffeat.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_MULTIPLE = 32  # SEQ_MULTI_OF of diffusers' transformer_z_image: image and text are padded to multiples of it
_NORM = ModulationRule("attention_norm1", "adaLN_modulation", **SCALED)


class ZImage(Family):
    name = "z-image"
    denoiser_class = "ZImageTransformer2DModel"
    flow = True
    text_widths = {"cap_feat_dim": ("text_encoder.hidden_size",)}
    options = {"guidance_scale": 0.0}
    latent_argument = "x"
    timestep_argument = "t"
    time = "1-t/1000"
    conditional_first = True
    blocks = (
        BlockRule(
            "ZImageTransformerBlock",
            "attention",
            {"attention": _NORM, "feed_forward": _NORM.later("ffn_norm1", 2)},
            joint=True,
        ),
    )
    text_modules = frozenset({"context_refiner", "cap_embedder"})
    image_stacks = frozenset({"noise_refiner"})

    def patch(self, config: Config) -> int:
        return config["all_patch_size"][0]

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Config) -> Tensor:
        return (1000 - t) / 1000

    def pack(self, latents: Tensor) -> list[Tensor]:
        return list(latents[:, :, None])

    def unpack(self, output: list[Tensor], latents: Tensor) -> Tensor:
        return -torch.stack(list(output))[:, :, 0]

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        chat = [{"role": "user", "content": prompt}]
        text = pipeline.tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=True, enable_thinking=True
        )
        return [TokenisedText(pipeline.tokenizer, text)]

    def layout(self, config: Config, call: Call) -> TokenLayout:
        """The image and its padding, then the text and its own; x is a list of (channels, 1, h, w)."""
        x, texts = call["x"], call["cap_feats"]
        if isinstance(x[0], (list, tuple)):
            raise ModelError("Z-Image calls with several images per row (omni mode) are not supported.")
        patch = call.get("patch_size") or config["all_patch_size"][0]
        h, w = x[0].shape[-2] // patch, x[0].shape[-1] // patch
        return TokenLayout((h, w), text=_padded(max(len(t) for t in texts)), image_first=True, images=_padded(h * w))

    def dummy(self, config: Config, latent: Size) -> Call:
        text = min(256, config["axes_lens"][0] - _MULTIPLE)  # positions of image and padding follow the text's
        return {
            "x": [empty(config["in_channels"], 1, *latent)],
            "t": empty(1),
            "cap_feats": [empty(text, config["cap_feat_dim"])],
        }


def _padded(tokens: int) -> int:
    return tokens + -tokens % _MULTIPLE
