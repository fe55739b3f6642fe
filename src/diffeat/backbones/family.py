"""What distinguishes one family of diffusion models from another, and the base that most of them only fill in."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError


@dataclass(frozen=True)
class TokenisedText:
    """How a prompt comes to its place in the text sequence of the denoiser.

    Attributes:
        tokenizer: The tokenizer.
        text: The whole text that is tokenised, in which the prompt stands.
        offset: Added to a position in the tokenised text to get the position in the sequence.
        length: Positions at or beyond this one are cut off, before ``offset`` is added.
    """

    tokenizer: Any
    text: str
    offset: int = 0
    length: int | None = None


class Family:
    """A family of denoisers. Subclasses set the attributes and override what differs."""

    name: ClassVar[str]
    denoiser_class: ClassVar[str]
    """Name of the diffusers class of the denoiser."""
    flow: ClassVar[bool] = False
    """Rectified flow (x_t = (1 - s) x_0 + s eps) instead of a discrete variance-preserving diffusion."""
    square_only: ClassVar[bool] = False
    conditional: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the pipeline call that turn guidance off; an option that a user gives takes precedence."""
    latent_argument: str = "hidden_states"
    timestep_argument: str = "timestep"
    shared: frozenset[str] = frozenset()
    """Denoiser arguments without a batch axis."""
    pixels_per_latent: ClassVar[int | None] = None
    """Pixels per latent cell, where it is not the autoencoder's own factor."""
    pipeline_multiple: ClassVar[int] = 1
    """Image sides that the stock pipeline accepts are multiples of this, whatever the autoencoder."""

    def accepts(self, config: Mapping[str, Any]) -> bool:
        """Whether a denoiser of ``denoiser_class`` with this configuration belongs here."""
        return True

    def patch(self, config: Mapping[str, Any]) -> int:
        """Latent cells per token, one way; image sizes are multiples of this times the latent stride."""
        return config.get("patch_size") or 1

    def call_arguments(
        self, pipeline: Any, prompts: list[str], size: tuple[int, int], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Arguments of a pipeline call of one step that leads to the wanted denoiser arguments.

        Raises:
            InvalidValueError: If the pipeline has no such option.
        """
        known = inspect.signature(pipeline.__call__).parameters
        for name in options:
            if name not in known:
                raise InvalidValueError(
                    f"{type(pipeline).__name__} has no option {name!r}; it has: {', '.join(known)}."
                )
        wanted = {
            "prompt": prompts,
            "width": size[0],
            "height": size[1],
            "num_inference_steps": 1,
            "output_type": "latent",
            "generator": torch.Generator().manual_seed(0),
            **self.options,
        }
        return {k: v for k, v in wanted.items() if k in known} | dict(options)

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Mapping[str, Any]) -> Tensor:
        """The denoiser's timestep argument for ``t`` (batch,), float32, 0 to 1000, with the stock rounding."""
        return t if self.flow else t.long()

    def pack(self, latents: Tensor) -> Any:
        """The denoiser's latent argument."""
        return latents

    def unpack(self, output: Any, latents: Tensor) -> Tensor:
        """The denoiser's output in the shape of the latents (with twice the channels where variances are learned)."""
        return output

    def texts(self, pipeline: Any, prompt: str) -> list[TokenisedText]:
        """The tokenised texts that make up the denoiser's text sequence."""
        return [TokenisedText(pipeline.tokenizer, prompt, length=pipeline.tokenizer.model_max_length)]
