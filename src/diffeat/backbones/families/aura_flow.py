"""AuraFlow: a few learned register tokens at the start of the joint sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from diffeat.backbones.blocks import ZERO_BOTH, BlockRule
from diffeat.backbones.family import Family, Size, plain_call
from diffeat.backbones.layout import Call, Config, TokenLayout, map_grid, text_length

_REGISTERS = 8  # AuraFlowTransformer2DModel.register_tokens; a constant there, not a config entry


class AuraFlow(Family):
    name = "aura-flow"
    denoiser_class = "AuraFlowTransformer2DModel"
    flow = True
    text_widths = {"joint_attention_dim": ("text_encoder.hidden_size",)}
    options = {"guidance_scale": 1.0}
    time = "t/1000"
    blocks = (
        BlockRule("AuraFlowJointTransformerBlock", "attn", ZERO_BOTH, item=1),
        BlockRule("AuraFlowSingleTransformerBlock", "attn", ZERO_BOTH, joint=True),
    )

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Config) -> Tensor:
        return (t / 1000).to(dtype)

    def layout(self, config: Config, call: Call) -> TokenLayout:
        text = _REGISTERS + text_length(call.get("encoder_hidden_states"))
        return TokenLayout(map_grid(config, call["hidden_states"]), text=text, registers=_REGISTERS)

    def dummy(self, config: Config, latent: Size) -> Call:
        return plain_call(config, latent, 256, "joint_attention_dim")
