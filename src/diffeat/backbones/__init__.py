"""Diffusers pipelines made ready for features: encode, condition, noise, denoise."""

from __future__ import annotations

from diffeat.backbones.backbone import Backbone
from diffeat.backbones.conditioning import Conditioning
from diffeat.backbones.families import FAMILIES, dummy_inputs, family_named, family_of, layout_of
from diffeat.backbones.family import Family
from diffeat.backbones.latents import LatentPosterior
from diffeat.backbones.layout import TokenLayout
from diffeat.backbones.loading import load_meta_denoiser, model_names, resolve_model

__all__ = [
    "FAMILIES",
    "Backbone",
    "Conditioning",
    "Family",
    "LatentPosterior",
    "TokenLayout",
    "dummy_inputs",
    "family_named",
    "family_of",
    "layout_of",
    "load_meta_denoiser",
    "model_names",
    "resolve_model",
]
