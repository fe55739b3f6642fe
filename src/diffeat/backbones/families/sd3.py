"""Stable Diffusion 3 and 3.5: 77 CLIP tokens (two encoders, side by side) followed by T5 tokens."""

from __future__ import annotations

from typing import Any, ClassVar

from diffeat.backbones.family import Family, TokenisedText


class StableDiffusion3(Family):
    name = "sd3"
    denoiser_class = "SD3Transformer2DModel"
    flow = True
    options: ClassVar = {"guidance_scale": 1.0}

    def texts(self, pipeline: Any, prompt: str) -> list[TokenisedText]:
        length = pipeline.tokenizer_max_length
        clip = TokenisedText(pipeline.tokenizer, prompt, length=length)
        if pipeline.tokenizer_3 is None:
            return [clip]
        return [clip, TokenisedText(pipeline.tokenizer_3, prompt, offset=length)]
