"""The techniques that a recipe can hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from diffeat.techniques.controlnet import ControlNet
from diffeat.techniques.denoise_from import DenoiseFrom
from diffeat.techniques.guidance import Guidance
from diffeat.techniques.ip_adapter import IPAdapter
from diffeat.techniques.lora import LoRA
from diffeat.techniques.prompt import Prompt

AnyTechnique = Annotated[Prompt | ControlNet | LoRA | IPAdapter | Guidance | DenoiseFrom, Field(discriminator="kind")]
