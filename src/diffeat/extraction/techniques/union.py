"""The techniques that a recipe can hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from diffeat.extraction.techniques.controlnet import ControlNet
from diffeat.extraction.techniques.denoise_from import DenoiseFrom
from diffeat.extraction.techniques.guidance import Guidance
from diffeat.extraction.techniques.ip_adapter import IPAdapter
from diffeat.extraction.techniques.lora import LoRA
from diffeat.extraction.techniques.prompt import Prompt

AnyTechnique = Annotated[Prompt | ControlNet | LoRA | IPAdapter | Guidance | DenoiseFrom, Field(discriminator="kind")]
