"""DiT: ImageNet classes instead of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from diffeat.backbones.blocks import ZERO, BlockRule
from diffeat.backbones.family import Family, Size, TokenisedText, empty
from diffeat.backbones.layout import Call, Config
from diffeat.errors import InvalidValueError, ModelError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

NULL_CLASS = 1000


class DiT(Family):
    """A prompt is a class label (``"tench"``), its number (``"0"``), or empty for the null class."""

    name = "dit"
    denoiser_class = "DiTTransformer2DModel"
    options = {"guidance_scale": 1.0}
    square_only = True  # DiTTransformer2DModel puts its output patches together as a square
    conditional_first = True
    tells_guidance = False  # equal latents in both halves of a batch tell it
    blocks = (
        BlockRule(
            "BasicTransformerBlock", "attn1", {"attn1": ZERO, "ff": ZERO.later("norm3")}, norm_type="ada_norm_zero"
        ),
    )

    def call_arguments(
        self, pipeline: DiffusionPipeline, prompts: list[str], size: tuple[int, int], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        classes = [_class_of(pipeline, prompt) for prompt in prompts]
        return {"class_labels": classes, **super().call_arguments(pipeline, prompts, size, options)}

    def dummy(self, config: Config, latent: Size) -> Call:
        return {
            "hidden_states": empty(1, config["in_channels"], *latent),
            "timestep": empty(1),
            "class_labels": empty(1, dtype=torch.long),
        }

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        raise ModelError("DiT is conditioned on a class, not on words; it has no text sequence.")


def _class_of(pipeline: DiffusionPipeline, prompt: str) -> int:
    text = prompt.strip()
    if not text:
        return NULL_CLASS
    if text.isdecimal():
        if int(text) > NULL_CLASS:
            raise InvalidValueError(f"Class {text} is outside 0 to 999 (1000 is the null class).")
        return int(text)
    labels: dict[str, int] = getattr(pipeline, "labels", None) or {}
    if text not in labels:
        near = did_you_mean(text, labels)
        hint = near or "Give the number of an ImageNet class (0 to 999), or an empty prompt for no class."
        raise UnknownNameError(f"This DiT model knows no class {text!r}. {hint}")
    return labels[text]
