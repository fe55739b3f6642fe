"""Lumina Image 2: time runs the other way (1 - s), and so does the predicted velocity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffeat.backbones.family import Family, TokenisedText


class Lumina2(Family):
    name = "lumina2"
    denoiser_class = "Lumina2Transformer2DModel"
    flow = True
    options: ClassVar = {"guidance_scale": 1.0}

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Mapping[str, Any]) -> Tensor:
        return 1 - t / 1000

    def unpack(self, output: Tensor, latents: Tensor) -> Tensor:
        return -output

    def texts(self, pipeline: Any, prompt: str) -> list[TokenisedText]:
        return [TokenisedText(pipeline.tokenizer, f"{pipeline.system_prompt} <Prompt Start> {prompt}")]
