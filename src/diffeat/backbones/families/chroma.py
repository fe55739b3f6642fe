"""Chroma: FLUX's blocks with T5 alone; how its pipeline calls it is read off recorded calls."""

from __future__ import annotations

from diffeat.backbones.blocks import BlockRule, ModulationRule
from diffeat.backbones.families.flux import packed_image, text_tokens
from diffeat.backbones.families.generic import Generic
from diffeat.backbones.family import Size, empty
from diffeat.backbones.layout import Call, Config

_NORM = ModulationRule("norm1", "norm1", "emb")
_SINGLE = ModulationRule("norm", "norm", "emb")


class Chroma(Generic):
    name = "chroma"
    denoiser_class = "ChromaTransformer2DModel"
    flow = True
    text_widths = {"joint_attention_dim": ("text_encoder.hidden_size",)}
    time = "t/1000"
    blocks = (
        BlockRule("ChromaTransformerBlock", "attn", {"attn": _NORM, "ff": _NORM.later("norm2")}, item=1),
        BlockRule("ChromaSingleTransformerBlock", "attn", {"attn": _SINGLE}, joint=True, inner="act_mlp"),
    )

    def dummy(self, config: Config, latent: Size) -> Call:
        return {**packed_image(config, latent), **text_tokens(config), "timestep": empty(1)}
