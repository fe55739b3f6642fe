"""A ControlNet that is shown a condition of the input picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_serializer, field_validator, model_serializer

from diffeat.techniques.base import Call, Scale, Technique
from diffeat.techniques.named import function_name, load_function

if TYPE_CHECKING:
    from torch import Tensor

    from diffeat.techniques.controls import Control
    from diffeat.techniques.scene import Desk, Scene


class ControlNet(Technique, frozen=True):
    """A ControlNet of the model's own base; several add up.

    Attributes:
        model: Hub id or folder of a diffusers ControlNet for Stable Diffusion 1.x, 2.x, XL, 3, 3.5, FLUX.1, Qwen-Image,
            Hunyuan-DiT or Sana.
        condition: What it is shown: see :func:`~diffeat.techniques.conditions.find_condition`.
        scale: Factor on what it adds to the denoiser, any finite number.
        mode: Number of the kind of condition, for ControlNets that know several and must be told (unions of SDXL and
            FLUX.1).
    """

    words = {"controlnet": "model"}
    usage = ("controlnet:MODEL,condition=canny,scale=1",)
    strength = "scale"
    once = False
    passes = 0.4

    kind: Literal["controlnet"] = "controlnet"
    model: str
    condition: str | Callable[..., Any] = "canny"
    scale: Scale = 1.0
    mode: int | None = Field(None, ge=0)

    @field_validator("condition")
    @classmethod
    def _function(cls, value: str | Callable[..., Any]) -> str | Callable[..., Any]:
        code = isinstance(value, str) and ":" in value and not value.startswith("depth:")
        return load_function(value) if code else value

    @field_serializer("condition")
    def _plain(self, value: str | Callable[..., object]) -> str:
        return function_name(value)

    @model_serializer(mode="wrap")
    def _with_kind(self, plain: SerializerFunctionWrapHandler) -> dict[str, object]:
        values = {"kind": self.kind, **plain(self)}
        if self.mode is None:  # recipes without one keep their hash
            values.pop("mode", None)
        return values

    @property
    def label(self) -> str:
        return f"controlnet {function_name(self.condition)} ×{self.scale:g}"

    @property
    def per_image(self) -> bool:
        return True

    def files(self) -> Sequence[str]:
        from diffeat.techniques.conditions import depth_model

        depth = depth_model(self.condition)
        return (self.model,) if depth is None else (self.model, depth)

    def load(self, desk: Desk) -> None:
        self._control(desk)

    def tell(self, desk: Desk, scenes: Sequence[Scene]) -> Tensor:
        import torch

        return torch.stack([self._show(desk, scene.seen) for scene in scenes])

    def steer(self, desk: Desk, inputs: Call, told: Tensor) -> Call:
        from diffeat.techniques.controls import add_residuals

        return add_residuals(inputs, self._control(desk).residuals(inputs, told, self.scale, self.mode))

    def _control(self, desk: Desk) -> Control:
        from diffeat.techniques.controls import load_controlnet

        control = desk.keep(("controlnet", self.model), lambda: load_controlnet(self.model, desk.backbone))
        control.check_mode(self.mode)
        return control

    def _show(self, desk: Desk, scene: Scene) -> Tensor:
        from diffeat.techniques.conditions import condition_image, find_condition

        control = self._control(desk)

        def show() -> Tensor:
            picture = condition_image(find_condition(self.condition), scene.pixels)
            return control.show(picture).to(desk.backbone.device)

        return desk.of_picture(scene, ("condition", function_name(self.condition), control.form), show)
