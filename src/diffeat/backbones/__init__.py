"""Diffusers pipelines made ready for features: encode, condition, noise, denoise."""

from __future__ import annotations

from diffeat.backbones.layout import TokenLayout, layout_of

__all__ = ["TokenLayout", "layout_of"]
