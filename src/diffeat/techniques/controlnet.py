"""A ControlNet that is shown a condition of the input picture."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, model_serializer

from diffeat.techniques.base import Technique
from diffeat.techniques.conditions import Condition
from diffeat.techniques.named import function_name


class ControlNet(Technique):
    """A ControlNet of the model's own base; several add up.

    Attributes:
        model: Hub id or folder of a diffusers ControlNet for Stable Diffusion 1.x, 2.x, XL, 3, 3.5, FLUX.1, Qwen-Image,
            Hunyuan-DiT or Sana.
        condition: What it is shown: see :func:`~diffeat.techniques.conditions.find_condition`.
        scale: Factor on what it adds to the denoiser, 0 to 2.
        mode: Number of the kind of condition, for ControlNets that know several and must be told (unions of SDXL and
            FLUX.1).
    """

    kind: Literal["controlnet"] = "controlnet"
    model: str
    condition: str | Condition = "canny"
    scale: float = Field(1.0, ge=0, le=2)
    mode: int | None = Field(None, ge=0)

    @field_serializer("condition")
    def _plain(self, value: str | Condition) -> str:
        return function_name(value)

    @model_serializer(mode="wrap")
    def _with_kind(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = {"kind": self.kind, **plain(self)}
        if self.mode is None:  # recipes without one keep their hash
            found.pop("mode", None)
        return found

    @property
    def label(self) -> str:
        return f"controlnet {function_name(self.condition)} ×{self.scale:g}"

    def null(self) -> ControlNet:
        return self.at(0.0)

    def at(self, strength: float) -> ControlNet:
        return ControlNet(model=self.model, condition=self.condition, scale=strength, mode=self.mode)
