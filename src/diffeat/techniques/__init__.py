"""Generation techniques as objects that are applied to a backbone and always taken off again.

What applies them loads on first use, so that the command line can name the techniques at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from diffeat.techniques.base import Custom, Technique
from diffeat.techniques.combination import Combination
from diffeat.techniques.controlnet import ControlNet
from diffeat.techniques.denoise_from import DenoiseFrom
from diffeat.techniques.guidance import Guidance
from diffeat.techniques.ip_adapter import IPAdapter
from diffeat.techniques.lora import LoRA
from diffeat.techniques.other_weights import OtherWeights
from diffeat.techniques.prompt import Prompt
from diffeat.techniques.scene import Scene

if TYPE_CHECKING:
    from diffeat.techniques.conditions import CONDITIONS, condition_image, find_condition
    from diffeat.techniques.session import Rows, Session, Steered

#: Every technique that recipes and the command line know.
TECHNIQUES: tuple[type[Technique], ...] = (Prompt, OtherWeights, ControlNet, LoRA, IPAdapter, Guidance, DenoiseFrom)

_HOMES = {
    **dict.fromkeys(("CONDITIONS", "condition_image", "find_condition"), "conditions"),
    **dict.fromkeys(("Rows", "Session", "Steered"), "session"),
}

__all__ = [
    "CONDITIONS",
    "TECHNIQUES",
    "Combination",
    "ControlNet",
    "Custom",
    "DenoiseFrom",
    "Guidance",
    "IPAdapter",
    "LoRA",
    "OtherWeights",
    "Prompt",
    "Rows",
    "Scene",
    "Session",
    "Steered",
    "Technique",
    "condition_image",
    "find_condition",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"diffeat.techniques.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'diffeat.techniques' has no attribute {name!r}")
