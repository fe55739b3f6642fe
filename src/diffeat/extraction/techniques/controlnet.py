"""A ControlNet that is shown a condition of the input picture."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_serializer
from torch import Tensor, nn

from diffeat.errors import ModelError
from diffeat.extraction.techniques.base import Technique
from diffeat.extraction.techniques.conditions import Condition
from diffeat.extraction.techniques.named import function_name


class ControlNet(Technique):
    """A ControlNet of a UNet model (Stable Diffusion 1.x, 2.x, XL); several add up.

    Attributes:
        model: Hub id or folder of a diffusers ``ControlNetModel``.
        condition: What it is shown: see :func:`~diffeat.extraction.techniques.conditions.find_condition`.
        scale: Factor on what it adds to the UNet, 0 to 2.
    """

    kind: Literal["controlnet"] = "controlnet"
    model: str
    condition: str | Condition = "canny"
    scale: float = Field(1.0, ge=0, le=2)

    @field_serializer("condition")
    def _plain(self, value: str | Condition) -> str:
        return function_name(value)

    @property
    def label(self) -> str:
        return f"controlnet {function_name(self.condition)} ×{self.scale:g}"

    def null(self) -> ControlNet:
        return self.at(0.0)

    def at(self, strength: float) -> ControlNet:
        return ControlNet(model=self.model, condition=self.condition, scale=strength)


def load_controlnet(path: str, denoiser: nn.Module) -> nn.Module:
    """Load a ControlNet for a UNet.

    Raises:
        ModelError: If it cannot be loaded, or belongs to another base model.
    """
    from diffusers.models.controlnets.controlnet import ControlNetModel

    if type(denoiser).__name__ != "UNet2DConditionModel":
        raise ModelError(f"ControlNets are supported for UNet models; this model has a {type(denoiser).__name__}.")
    like = next(denoiser.parameters())
    try:
        found: Any = ControlNetModel.from_pretrained(path, torch_dtype=like.dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"The ControlNet {path!r} cannot be loaded: {error}") from None
    ours: Any = denoiser.config
    differ = [
        f"{name} {found.config.get(name)} instead of {ours.get(name)}"
        for name in ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block",
                     "addition_embed_type")
        if _plain(found.config.get(name)) != _plain(ours.get(name))
    ]  # fmt: skip
    if differ:
        raise ModelError(f"The ControlNet {path!r} was made for another base model: it has {', '.join(differ)}.")
    return found.to(like.device).eval().requires_grad_(False)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def residuals(controlnet: nn.Module, inputs: dict[str, Any], condition: Tensor, scale: float) -> dict[str, Any]:
    """What a ControlNet adds to the UNet call ``inputs``, as arguments of that call."""
    same = ("sample", "timestep", "encoder_hidden_states", "added_cond_kwargs", "class_labels")
    down, mid = controlnet(
        **{name: inputs[name] for name in same if inputs.get(name) is not None},
        controlnet_cond=condition.to(inputs["sample"]),
        conditioning_scale=scale,
        return_dict=False,
    )
    return {"down_block_additional_residuals": tuple(down), "mid_block_additional_residual": mid}


def add_residuals(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """What two ControlNets add together."""
    if not one:
        return two
    down = zip(one["down_block_additional_residuals"], two["down_block_additional_residuals"], strict=True)
    mid: Tensor = one["mid_block_additional_residual"] + two["mid_block_additional_residual"]
    return {
        "down_block_additional_residuals": tuple(torch.add(a, b) for a, b in down),
        "mid_block_additional_residual": mid,
    }
