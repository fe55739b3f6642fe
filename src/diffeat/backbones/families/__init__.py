"""The families, and the one place where they are registered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffeat.backbones.families.aura_flow import AuraFlow
from diffeat.backbones.families.dit import DiT
from diffeat.backbones.families.flux import Flux
from diffeat.backbones.families.flux2 import Flux2
from diffeat.backbones.families.generic import Generic
from diffeat.backbones.families.hunyuan_dit import HunyuanDiT
from diffeat.backbones.families.lumina2 import Lumina2
from diffeat.backbones.families.pixart import PixArt
from diffeat.backbones.families.qwen_image import QwenImage
from diffeat.backbones.families.sana import Sana
from diffeat.backbones.families.sd import StableDiffusion
from diffeat.backbones.families.sd3 import StableDiffusion3
from diffeat.backbones.families.sdxl import StableDiffusionXL
from diffeat.backbones.families.unconditional import Unconditional
from diffeat.backbones.families.z_image import ZImage
from diffeat.backbones.family import Family
from diffeat.errors import UnknownNameError, did_you_mean

FAMILIES: dict[str, type[Family]] = {
    family.name: family
    for family in (
        StableDiffusion,
        StableDiffusionXL,
        DiT,
        PixArt,
        HunyuanDiT,
        StableDiffusion3,
        Flux,
        AuraFlow,
        Lumina2,
        Sana,
        QwenImage,
        ZImage,
        Flux2,
        Unconditional,
        Generic,
    )
}


def family_of(denoiser_class: str, config: Mapping[str, Any]) -> Family:
    """The family of a denoiser, by the name of its class and its configuration; else the generic one."""
    for family in FAMILIES.values():
        if family.denoiser_class == denoiser_class and family().accepts(config):
            return family()
    return Generic()


def family_named(name: str) -> Family:
    """The family of this name.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in FAMILIES:
        raise UnknownNameError(f"There is no family {name!r}. {did_you_mean(name, FAMILIES)}".strip())
    return FAMILIES[name]()
