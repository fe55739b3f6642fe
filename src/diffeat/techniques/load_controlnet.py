"""A ControlNet from its folder or hub id, refused where it does not belong to the model."""

from __future__ import annotations

from typing import Any

from diffeat.backbones import Backbone
from diffeat.errors import ModelError
from diffeat.techniques.controls import CONTROLS, Control


def load_controlnet(path: str, backbone: Backbone) -> Control:
    """Load a ControlNet for a model.

    Raises:
        ModelError: If there are none for this kind of model, it cannot be loaded, or it belongs to another base model.
    """
    import diffusers

    ours = type(backbone.denoiser).__name__
    kinds = {kind.net_class: kind for kind in CONTROLS if kind.denoiser_class == ours}
    if not kinds:
        raise ModelError(f"ControlNets are supported for {_supported()}; this model has a {ours}.")
    any_net: Any = diffusers.ControlNetModel
    try:
        name = any_net.load_config(path).get("_class_name") or next(iter(kinds))
        net = None
        if name in kinds:
            net = getattr(diffusers, name).from_pretrained(path, torch_dtype=backbone.dtype)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"The ControlNet {path!r} cannot be loaded: {error}") from None
    if net is None:
        raise ModelError(_misplaced(path, name, ours))
    control = kinds[name](net.to(backbone.device).eval().requires_grad_(False), backbone)
    unfit = control.unfit()
    if unfit:
        raise ModelError(f"The ControlNet {path!r} {unfit}.")
    return control


def _misplaced(path: str, name: str, ours: str) -> str:
    theirs = next((kind.denoiser_class for kind in CONTROLS if kind.net_class == name), None)
    if theirs is None:
        return f"The ControlNet {path!r} is a {name}, which is not supported. Supported are those for {_supported()}."
    return (
        f"The ControlNet {path!r} was made for another base model: it is a {name} for a {theirs}, but this model has a "
        f"{ours}."
    )


def _supported() -> str:
    denoisers = dict.fromkeys(kind.denoiser_class for kind in CONTROLS)
    of = {d: ", ".join(kind.net_class for kind in CONTROLS if kind.denoiser_class == d) for d in denoisers}
    return "; ".join(f"{denoiser} ({nets})" for denoiser, nets in of.items())
