"""Qwen-Image: packed latents, one (frames, rows, columns) entry per image, Qwen-VL tokens of the true length."""

from __future__ import annotations

from typing import Any, ClassVar

from diffeat.backbones.families.flux import Flux
from diffeat.backbones.family import TokenisedText


class QwenImage(Flux):
    name = "qwen-image"
    denoiser_class = "QwenImageTransformer2DModel"
    options: ClassVar = {"true_cfg_scale": 1.0}
    shared = frozenset()

    def texts(self, pipeline: Any, prompt: str) -> list[TokenisedText]:
        text = pipeline.prompt_template_encode.format(prompt)
        return [TokenisedText(pipeline.tokenizer, text, offset=-pipeline.prompt_template_encode_start_idx)]
