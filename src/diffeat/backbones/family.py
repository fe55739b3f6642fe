"""What distinguishes one family of diffusion models from another, and the base that most of them only fill in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from diffeat.backbones.blocks import BlockRule
from diffeat.backbones.layout import Call, Config, TokenLayout, map_grid
from diffeat.errors import InvalidValueError, ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import PreTrainedTokenizerBase

Size = tuple[int, int]
TimeUnit = Literal["t", "t/1000", "1-t/1000"]

#: From a timestep, 0 to 1000, to how a denoiser is told it, and back.
TIME_UNITS: dict[TimeUnit, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "t": (lambda t: t, lambda told: told),
    "t/1000": (lambda t: t / 1000, lambda told: told * 1000),
    "1-t/1000": (lambda t: 1 - t / 1000, lambda told: (1 - told) * 1000),
}


def empty(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of this shape on the meta device."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def plain_call(config: Config, latent: Size, text: int, width: str) -> dict[str, Any]:
    """Arguments without content: a latent map, text tokens as wide as an entry of the configuration says, the time."""
    return {
        "hidden_states": empty(1, config["in_channels"], *latent),
        "encoder_hidden_states": empty(1, text, config[width]),
        "timestep": empty(1),
    }


@dataclass(frozen=True)
class TokenisedText:
    """How a prompt comes to its place in the text sequence of the denoiser.

    Attributes:
        text: The whole text that is tokenised, in which the prompt stands.
        offset: Added to a position in the tokenised text to get the position in the sequence.
        length: Positions at or beyond this one are cut off, before ``offset`` is added.
    """

    tokenizer: PreTrainedTokenizerBase
    text: str
    offset: int = 0
    length: int | None = None


class Family:
    """A family of denoisers. Subclasses set the attributes and override what differs."""

    name: ClassVar[str]
    denoiser_class: ClassVar[str]
    """Name of the diffusers class of the denoiser."""
    flow: bool = False
    """Rectified flow (x_t = (1 - s) x_0 + s eps) instead of a discrete variance-preserving diffusion."""
    square_only: ClassVar[bool] = False
    conditional: ClassVar[bool] = True
    options: ClassVar[Mapping[str, Any]] = {}
    """Arguments of the pipeline call that turn guidance off; an option that a user gives takes precedence."""
    latent_argument: str = "hidden_states"
    timestep_argument: str = "timestep"
    time: TimeUnit = "t"
    """How the denoiser is told the timestep t, 0 to 1000."""
    shared: frozenset[str] = frozenset()
    """Denoiser arguments without a batch axis."""
    latent_stride: ClassVar[int] = 8
    """Pixels per latent cell of the family's own autoencoder."""
    pipeline_multiple: ClassVar[int] = 1
    """Image sides that the stock pipeline accepts are multiples of this, whatever the autoencoder."""
    conditional_first: ClassVar[bool] = False
    """Whether the conditional half of a guided batch comes before the unconditional one."""
    tells_guidance: ClassVar[bool] = True
    """Whether pipelines say in ``do_classifier_free_guidance`` that they guide."""
    blocks: ClassVar[tuple[BlockRule, ...]] = ()
    """The classes of its transformer blocks."""
    text_modules: ClassVar[frozenset[str]] = frozenset()
    """Children of the denoiser or its blocks that carry text, not the image."""
    image_stacks: ClassVar[frozenset[str]] = frozenset()
    """Stacks in which blocks with a joint attention still see the image alone."""

    text_widths: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Entry of the denoiser's configuration, and what of the text encoders' adds up to it (``part.entry``)."""

    def accepts(self, config: Config) -> bool:
        """Whether a denoiser of ``denoiser_class`` with this configuration belongs here."""
        return True

    def patch(self, config: Config) -> int:
        """Latent cells per token, one way; image sizes are multiples of this times the latent stride."""
        return config.get("patch_size") or 1

    def latent_channels(self, config: Config) -> int | None:
        """Channels of the latents that the denoiser takes, before any packing; ``None`` if not known."""
        return config.get("in_channels")

    def layout(self, config: Config, call: Call) -> TokenLayout:
        """Where the image tokens lie in a call of the denoiser; by default, one per patch of a latent map, no text.

        Args:
            config: Of the denoiser.
            call: The arguments of the call, bound to their names.

        Raises:
            ModelError: If the arguments do not tell.
        """
        return TokenLayout(map_grid(config, call[self.latent_argument]))

    def dummy(self, config: Config, latent: Size) -> Call:
        """Arguments of the denoiser for one image, of the right shapes and without content, on the meta device.

        Texts have the length that the configuration says or, where it says none, the stock pipeline's own.

        Args:
            config: Of the denoiser.
            latent: ``(h, w)`` of the latent before any packing.

        Raises:
            ModelError: If they are not known.
        """
        raise ModelError(
            f"The arguments of a {self.denoiser_class} are not known; give those of a real call as 'inputs'."
        )

    def default_latent(self, config: Config) -> Size:
        """``(h, w)`` of the latent the denoiser is made for, before any packing; of 1024 pixels if it says none."""
        size = config.get("sample_size") or 1024 // self.latent_stride
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    def call_arguments(
        self, pipeline: DiffusionPipeline, prompts: list[str], size: tuple[int, int], options: Mapping[str, Any]
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

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Config) -> Tensor:
        """The denoiser's timestep argument for ``t`` (batch,), float32, 0 to 1000, with the stock rounding."""
        told, _ = TIME_UNITS[self.time]
        return told(t) if self.flow else told(t).long()

    def read_timestep(self, told: float) -> float:
        """The timestep, 0 to 1000, of what the denoiser was told."""
        return TIME_UNITS[self.time][1](told)

    def pack(self, latents: Tensor) -> Any:
        """The denoiser's latent argument."""
        return latents

    def unpack(self, output: Any, latents: Tensor) -> Tensor:
        """The denoiser's output in the shape of the latents (with twice the channels where variances are learned)."""
        return output

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        """The tokenised texts that make up the denoiser's text sequence."""
        return [TokenisedText(pipeline.tokenizer, prompt, length=pipeline.tokenizer.model_max_length)]
