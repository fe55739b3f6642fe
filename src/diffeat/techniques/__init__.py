"""Generation techniques as objects that are applied to a backbone and always taken off again."""

from diffeat.techniques.base import Custom, Technique
from diffeat.techniques.combination import Combination
from diffeat.techniques.conditions import CONDITIONS, condition_image, find_condition
from diffeat.techniques.controlnet import ControlNet
from diffeat.techniques.denoise_from import DenoiseFrom
from diffeat.techniques.guidance import Guidance
from diffeat.techniques.ip_adapter import IPAdapter
from diffeat.techniques.lora import LoRA
from diffeat.techniques.prompt import Prompt
from diffeat.techniques.session import Rows, Scene, Session, Steered

__all__ = [
    "CONDITIONS",
    "Combination",
    "ControlNet",
    "Custom",
    "DenoiseFrom",
    "Guidance",
    "IPAdapter",
    "LoRA",
    "Prompt",
    "Rows",
    "Scene",
    "Session",
    "Steered",
    "Technique",
    "condition_image",
    "find_condition",
]
