"""Generation techniques as objects that are applied to a backbone and always taken off again."""

from diffeat.extraction.techniques.base import Custom, Technique
from diffeat.extraction.techniques.combination import Combination
from diffeat.extraction.techniques.conditions import CONDITIONS, condition_image, find_condition
from diffeat.extraction.techniques.controlnet import ControlNet
from diffeat.extraction.techniques.denoise_from import DenoiseFrom
from diffeat.extraction.techniques.guidance import Guidance
from diffeat.extraction.techniques.ip_adapter import IPAdapter
from diffeat.extraction.techniques.lora import LoRA
from diffeat.extraction.techniques.prompt import Prompt
from diffeat.extraction.techniques.session import Rows, Scene, Session, Steered

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
