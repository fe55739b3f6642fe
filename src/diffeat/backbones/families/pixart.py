"""PixArt-α and PixArt-Σ; α at 1024 px takes the resolution and aspect ratio as micro-conditions."""

from __future__ import annotations

from typing import Any, ClassVar

from diffeat.backbones.family import Family, TokenisedText


class PixArt(Family):
    name = "pixart"
    denoiser_class = "PixArtTransformer2DModel"
    options: ClassVar = {"guidance_scale": 1.0, "use_resolution_binning": False, "clean_caption": False}

    def texts(self, pipeline: Any, prompt: str) -> list[TokenisedText]:
        return [TokenisedText(pipeline.tokenizer, prompt.lower().strip())]
