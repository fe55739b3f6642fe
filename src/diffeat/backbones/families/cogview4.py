"""CogView 4: GLM tokens before the image; how its pipeline calls it is read off recorded calls.

Its scheduler shifts noise levels but not the timesteps that the denoiser is told: in a stock generation the noise at a
timestep t is more than t / 1000.
"""

from __future__ import annotations

from diffeat.backbones.blocks import BlockRule, ModulationRule
from diffeat.backbones.families.generic import Generic
from diffeat.backbones.family import Size, empty, plain_call
from diffeat.backbones.layout import Call, Config

# one vector for image and text by turns: shift, shift of the text, scale, scale of the text, …
_NORM = ModulationRule("norm1", scale=2, gate=4)


class CogView4(Generic):
    name = "cogview4"
    denoiser_class = "CogView4Transformer2DModel"
    flow = True
    text_widths = {"text_embed_dim": ("text_encoder.hidden_size",)}
    blocks = (
        BlockRule("CogView4TransformerBlock", "attn1", {"attn1": _NORM, "ff": _NORM.later("norm2", 6)}, joint=True),
    )

    def dummy(self, config: Config, latent: Size) -> Call:
        return {
            **plain_call(config, latent, 256, "text_embed_dim"),
            "original_size": empty(1, 2),
            "target_size": empty(1, 2),
            "crop_coords": empty(1, 2),
        }
