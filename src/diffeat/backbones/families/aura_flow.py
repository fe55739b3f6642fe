"""AuraFlow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffeat.backbones.family import Family


class AuraFlow(Family):
    name = "aura-flow"
    denoiser_class = "AuraFlowTransformer2DModel"
    flow = True
    options: ClassVar = {"guidance_scale": 1.0}

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Mapping[str, Any]) -> Tensor:
        return (t / 1000).to(dtype)
