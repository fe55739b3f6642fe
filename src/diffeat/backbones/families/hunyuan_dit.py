"""Hunyuan-DiT: a bilingual CLIP text (77 tokens) followed by a T5 text (256 tokens)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffeat.backbones.family import Family, TokenisedText


class HunyuanDiT(Family):
    name = "hunyuan-dit"
    denoiser_class = "HunyuanDiT2DModel"
    options: ClassVar = {"guidance_scale": 1.0, "use_resolution_binning": False}
    shared = frozenset({"image_rotary_emb"})

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Mapping[str, Any]) -> Tensor:
        return t.to(dtype)

    def texts(self, pipeline: Any, prompt: str) -> list[TokenisedText]:
        return [
            TokenisedText(pipeline.tokenizer, prompt, length=77),
            TokenisedText(pipeline.tokenizer_2, prompt, offset=77, length=256),
        ]
