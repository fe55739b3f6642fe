"""Qwen-Image: packed latents, one (frames, rows, columns) entry per image, Qwen-VL tokens of the true length."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diffeat.backbones.blocks import BlockRule, ModulationRule
from diffeat.backbones.families.flux import Flux
from diffeat.backbones.family import Size, TokenisedText, empty
from diffeat.backbones.layout import Call, Config, TokenLayout, by_shapes

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_NORM = ModulationRule("img_norm1", "img_mod")


class QwenImage(Flux):
    name = "qwen-image"
    denoiser_class = "QwenImageTransformer2DModel"
    options = {"true_cfg_scale": 1.0}
    shared = frozenset()
    text_widths = {"joint_attention_dim": ("text_encoder.hidden_size",)}
    blocks = (
        BlockRule("QwenImageTransformerBlock", "attn", {"attn": _NORM, "img_mlp": _NORM.later("img_norm2")}, item=1),
    )
    text_modules = frozenset({"txt_mlp", "txt_mod", "txt_norm", "txt_norm1", "txt_norm2", "txt_in"})

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        text = pipeline.prompt_template_encode.format(prompt)
        return [TokenisedText(pipeline.tokenizer, text, offset=-pipeline.prompt_template_encode_start_idx)]

    def layout(self, config: Config, call: Call) -> TokenLayout:
        return by_shapes(call)

    def dummy(self, config: Config, latent: Size) -> Call:
        h, w = latent[0] // 2, latent[1] // 2
        return {
            "hidden_states": empty(1, h * w, config["in_channels"]),
            "encoder_hidden_states": empty(1, 256, config["joint_attention_dim"]),
            "timestep": empty(1),
            "img_shapes": [[(1, h, w)]],
        }
