"""Diffusers pipelines made ready for features: encode, condition, noise, denoise."""

from __future__ import annotations

from diffeat.backbones.backbone import Backbone
from diffeat.backbones.card import Card, cards
from diffeat.backbones.conditioning import Conditioning
from diffeat.backbones.families import FAMILIES, dummy_inputs, family_named, family_of, layout_of
from diffeat.backbones.family import Family
from diffeat.backbones.latents import LatentPosterior
from diffeat.backbones.layout import TokenLayout
from diffeat.backbones.loading import card_of, load_meta_denoiser, resolve_model
from diffeat.backbones.remembered import Memory, remembered

__all__ = [
    "FAMILIES",
    "Backbone",
    "Card",
    "Conditioning",
    "Family",
    "LatentPosterior",
    "Memory",
    "TokenLayout",
    "card_of",
    "cards",
    "dummy_inputs",
    "family_named",
    "family_of",
    "layout_of",
    "load_meta_denoiser",
    "remembered",
    "resolve_model",
]
