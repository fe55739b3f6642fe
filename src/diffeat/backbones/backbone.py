"""A stock diffusers pipeline made ready for features: encode, condition, noise, denoise."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeat.ambient import neutral
from diffeat.backbones.card import refuse_unsupported
from diffeat.backbones.conditioning import Conditioning
from diffeat.backbones.encoded import EncodedTexts
from diffeat.backbones.families import config_of, family_named, family_of
from diffeat.backbones.families.generic import Generic
from diffeat.backbones.family import Family
from diffeat.backbones.fingerprint import fingerprint, of_pipeline, precision_of
from diffeat.backbones.latents import Autoencoder, LatentPosterior
from diffeat.backbones.loading import card_of, load_pipeline
from diffeat.backbones.parts import check_parts, is_flow
from diffeat.backbones.placement import device_of
from diffeat.backbones.schedule import NoiseSchedule
from diffeat.backbones.sharing import ready, shared
from diffeat.backbones.words import word_positions
from diffeat.backbones.wrappers import computing_dtype, unwrapped
from diffeat.errors import InvalidValueError, ModelError
from diffeat.geometry import Frame, FrameSpec
from diffeat.memory import moved

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

#: Components that a backbone keeps: exchanging them needs a new one.
_LASTING = ("unet", "transformer", "vae", "text_encoder", "tokenizer")


class Backbone:
    """A pipeline and the translation between its family's conventions and those of diffeat.

    Latents are normalised as the denoiser sees them, ``(batch, channels, h, w)``; timesteps run from 0 to 1000 of the
    training schedule for every family; predictions of flow models point from the image to the noise.

    Args:
        pipeline: A diffusers text-to-image (or unconditional) pipeline. It is used as it is, not copied.
        family: Name of the family; by default found from the denoiser.
        name: What to call the model in messages.

    Raises:
        ModelError: If the pipeline has no denoiser that can be used, or is known not to work.
        UnknownNameError: If there is no such family.

    Attributes:
        pipeline: The pipeline.
        denoiser: Its UNet or transformer.
        family: Its family.
        name: What the model was asked for as.
        default_size: Image size ``(width, height)`` the model is made for.
        multiple: Widths and heights must be multiples of this many pixels.
        square_only: Whether the model only takes square images.
        latent_stride: Pixels per latent cell.
    """

    def __init__(self, pipeline: DiffusionPipeline, family: str | None = None, name: str = "") -> None:
        denoiser = getattr(pipeline, "unet", None)
        denoiser = getattr(pipeline, "transformer", None) if denoiser is None else denoiser
        if not isinstance(denoiser, nn.Module):
            raise ModelError(f"{type(pipeline).__name__} has no unet and no transformer; it is no diffusion pipeline.")
        refuse_unsupported(type(pipeline).__name__, type(unwrapped(denoiser)).__name__)
        self.pipeline = pipeline
        self.denoiser = denoiser
        self.name = name or type(pipeline).__name__
        self._config = config_of(denoiser)
        self.family: Family = family_named(family) if family else family_of(denoiser)
        check_parts(pipeline, denoiser, self.family)
        self._parts = {name: part for name, part in pipeline.components.items() if name.startswith(_LASTING)}
        self._scheduler = pipeline.scheduler
        self._autoencoder = Autoencoder(getattr(pipeline, "vae", None))
        #: Texts that were encoded; its ``state`` tells what is loaded into the text encoders.
        self.texts = EncodedTexts(pipeline, denoiser, self.family)
        self.latent_stride = self._pixels_per_latent()
        self.default_size = self._default_size()
        if isinstance(self.family, Generic):
            with self.ready():
                self._learn(self.family)
        self._schedule = NoiseSchedule(self._scheduler, self.family.flow)
        cells = self.family.patch(self._config)
        self.multiple = math.lcm(self.latent_stride * cells, self.family.pipeline_multiple)
        self.square_only = self.family.square_only

    @classmethod
    @neutral()
    def from_pretrained(
        cls,
        id_or_path: str,
        family: str | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        variant: str | None = None,
    ) -> Backbone:
        """Load a model.

        Args:
            id_or_path: A model name of diffeat (``"sd15"``, ``"tiny-unet"``, …), a hub id or a pipeline directory.
            family: Name of the family; by default found from the denoiser.
            dtype: Precision (``"float32"`` by default, ``"bfloat16"``, ``"float16"``). The autoencoder stays in
                float32 where its configuration asks for it.
            device: Where to; the CPU by default.
            revision: Revision of the hub repository.
            variant: Weights variant, such as ``"fp16"``.

        Raises:
            ModelError: If the model cannot be had; says why and what was tried.
            UnknownNameError: If the name is no model and no path.
            InvalidValueError: No such device or precision.
        """
        where = device_of(device or "cpu")  # before anything is loaded
        pipeline = load_pipeline(id_or_path, dtype=dtype, revision=revision, variant=variant)
        pipeline.to(where)
        backbone = cls(pipeline, family=family, name=str(id_or_path))
        card = card_of(id_or_path)
        if card is not None and backbone.prediction_type != card.prediction:
            raise ModelError(
                f"{backbone.name} predicts {card.prediction!r}, but the scheduler that came with it is made for "
                f"{backbone.prediction_type!r}: the copy at hand is damaged. Delete it and load it again."
            )
        return backbone

    @classmethod
    def from_pipeline(cls, pipeline: DiffusionPipeline, family: str | None = None, name: str = "") -> Backbone:
        """Use a pipeline that is already loaded."""
        return cls(pipeline, family=family, name=name)

    @property
    def device(self) -> torch.device:
        """Where the model runs, wherever diffusers' offloading keeps its weights meanwhile."""
        if hasattr(self.denoiser, "_hf_hook") or hasattr(self.denoiser, "_diffusers_hook"):
            return self.pipeline._execution_device
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In which the denoiser computes, whatever its weights are stored in."""
        return computing_dtype(self.denoiser)

    @property
    def fingerprint(self) -> str:
        """Tells everything in the pipeline that decides the numbers, as it is now, from others.

        Raises:
            ModelError: If the pipeline's denoiser or autoencoder was exchanged since this backbone was made.
        """
        self._check_same_parts()
        facts = [self.family.name, precision_of(self.dtype), self._schedule.alphas]
        with shared(self.denoiser):
            return fingerprint(of_pipeline(self.pipeline, self._scheduler, self.texts.dropped), *facts)

    @property
    def networks(self) -> list[nn.Module]:
        """The networks of the pipeline, the denoiser first."""
        parts = [part for part in self.pipeline.components.values() if isinstance(part, nn.Module)]
        return list(dict.fromkeys([self.denoiser, *parts]))

    def ready(self) -> AbstractContextManager[None]:
        """All networks in evaluation mode and torch as it comes, for the while."""
        return ready(*self.networks)

    def _check_same_parts(self) -> None:
        for name, part in self._parts.items():
            if getattr(self.pipeline, name, None) is not part:
                raise ModelError(
                    f"The {name} of {self.name} was exchanged since its Backbone was made. Make a new one: "
                    "Backbone.from_pipeline(pipeline)."
                )

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: ``"epsilon"``, ``"v_prediction"``, ``"sample"`` or ``"flow"``."""
        return self._schedule.prediction_type

    @property
    def train_steps(self) -> int:
        """Timesteps of the training schedule (1000 for flow models)."""
        return self._schedule.steps

    def encode_images(self, pixels: Float[Tensor, "b 3 h w"]) -> LatentPosterior:
        """Posterior of the normalised latents of images in [-1, 1]; float32, on the backbone's device.

        Raises:
            InvalidValueError: If the image size does not suit the model.
        """
        self._check_size((pixels.shape[-1], pixels.shape[-2]))
        with self.ready():
            return self._autoencoder.encode(pixels, self.device)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 H W"]:
        """Images (about [-1, 1], float32) of normalised latents."""
        with self.ready():
            return self._autoencoder.decode(latents.to(self.device))

    def condition(self, prompts: Sequence[str], size: tuple[int, int] | None = None, **options: Any) -> Conditioning:
        """Denoiser conditions for one prompt per row, taken from the pipeline's own code and remembered.

        Args:
            prompts: Texts; class labels or their numbers for DiT; empty ones for unconditional models.
            size: Image size ``(width, height)``; the model's own by default.
            options: Arguments of the pipeline call (``guidance_scale``, ``max_sequence_length``, ``original_size``…).

        Raises:
            InvalidValueError: If the size or an option does not suit the model, or an unconditional model is prompted.
            ModelError: If the text encoders are gone and the prompt was not encoded before.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        size = self._check_size(size or self.default_size)
        if not self.family.conditional:
            said = [p for p in prompts if p]
            if said:
                raise InvalidValueError(f"{self.name} is unconditional and takes no prompt; it was given {said[0]!r}.")
            return Conditioning(tuple({} for _ in prompts), tuple(prompts), size)
        with self.ready(), shared(self.denoiser):
            self._check_same_parts()
            rows = self.texts.rows(prompts, size, options)
        return Conditioning(rows, tuple(prompts), size, self.family.shared)

    def drop_text_encoders(self) -> None:
        """Free the text encoders. Texts encoded so far stay usable, at every image size."""
        self.texts.drop_encoders()
        for name in self.texts.dropped:
            self._parts.pop(name, None)

    def token_index(self, prompt: str, word: str) -> list[int]:
        """Positions of a word's tokens in the denoiser's text sequence.

        Raises:
            UnknownNameError: If the prompt has no such word; names its words.
            ModelError: If the model has no text sequence.
        """
        return word_positions(self.family.texts(self.pipeline, prompt), prompt, word)

    def noise(
        self, latents: Float[Tensor, "b c h w"], t: float | Tensor, eps: Float[Tensor, "#b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """Latents with the noise of timestep ``t`` (one, or one per row) in the proportion of the training schedule."""
        signal, noise = self._schedule.mix(self._schedule.check(t, len(latents)), latents)
        return signal * latents + noise * eps.to(latents)

    def denoiser_inputs(
        self, noisy: Float[Tensor, "b c h w"], t: float | Tensor, conditioning: Conditioning
    ) -> dict[str, Any]:
        """The exact arguments of ``denoiser.forward`` for noisy latents.

        Raises:
            InvalidValueError: If rows and latents do not match, or a timestep is outside the schedule.
        """
        if len(conditioning) != len(noisy):
            raise InvalidValueError(
                f"{len(noisy)} latents are given with {len(conditioning)} rows of conditions; repeat rows with take()."
            )
        w, h = conditioning.size
        if (h // self.latent_stride, w // self.latent_stride) != tuple(noisy.shape[-2:]):
            raise InvalidValueError(
                f"The conditions were made for images of {w}x{h} pixels, but the latents are "
                f"{noisy.shape[-1]}x{noisy.shape[-2]} cells of {self.latent_stride} pixels."
            )
        dtype, config = self.dtype, self._config
        times = self._schedule.check(t, len(noisy)).to(self.device)
        return {
            self.family.latent_argument: self.family.pack(moved(noisy, self.device).to(dtype)),
            self.family.timestep_argument: self.family.timestep(times, dtype, config),
            **conditioning.arguments(),
            "return_dict": False,
        }

    def denoise(
        self, noisy: Float[Tensor, "b c h w"], t: float | Tensor, conditioning: Conditioning
    ) -> Float[Tensor, "b c h w"]:
        """The denoiser's prediction, without guidance, in the shape of the latents (learned variances left out)."""
        with self.ready():
            output = self.denoiser(**self.denoiser_inputs(noisy, t, conditioning))[0]
        return self.family.unpack(output, noisy)[:, : noisy.shape[1]]

    def estimate_clean(
        self, noisy: Float[Tensor, "b c h w"], t: float | Tensor, prediction: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The clean latents that a prediction implies."""
        return self._schedule.clean(noisy, self._schedule.check(t, len(noisy)), prediction.to(noisy))

    def estimate_noise(
        self, noisy: Float[Tensor, "b c h w"], t: float | Tensor, prediction: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b c h w"]:
        """The noise in the latents that a prediction implies.

        Raises:
            InvalidValueError: If the model predicts samples and the latents are clean.
        """
        return self._schedule.noise_of(noisy, self._schedule.check(t, len(noisy)), prediction.to(noisy))

    def latent_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the latent of an image of ``size = (width, height)``."""
        return size[1] // self.latent_stride, size[0] // self.latent_stride

    def frame(self, spec: FrameSpec, size: tuple[int, int], name: str = "the picture") -> Frame:
        """Where a picture of ``size = (width, height)`` pixels lies in an image that this model takes.

        Args:
            spec: How pictures become model images; a size it leaves open is :attr:`default_size`.
            size: Width and height of the picture.
            name: What to call the picture in messages.

        Raises:
            InvalidValueError: If the sides suit no multiple of :attr:`multiple`, or the model takes square images only
                and this is none.
        """
        frame = spec.frame(size, multiple=self.multiple, default_size=self.default_size)
        if self.square_only and frame.model[0] != frame.model[1]:
            raise InvalidValueError(
                f"{self.family.name} takes square images only; the recipe's frame makes {name} "
                f"{frame.model[0]}×{frame.model[1]}. Use frame mode 'squash' or 'pad' with one size."
            )
        return frame

    def _learn(self, family: Generic) -> None:
        family.flow = is_flow(self._scheduler)
        size = self.default_size
        one, t = self.texts.record([""], size, {})
        two, _ = self.texts.record(["", ""], size, {})
        vae = getattr(self.pipeline, "vae", None)
        channels = vae.config.get("latent_channels") if vae is not None else None
        family.learn(one, two, (channels or self._config["in_channels"], *self.latent_size(size)), t)

    def _pixels_per_latent(self) -> int:
        vae = getattr(self.pipeline, "vae", None)
        if vae is None:
            return 1
        factor = getattr(self.pipeline, "vae_scale_factor", None)
        factor = factor or 2 ** (len(vae.config["block_out_channels"]) - 1)
        return factor * (2 if self._autoencoder.patched else 1)

    def _default_size(self) -> tuple[int, int]:
        known = inspect.signature(self.pipeline.__call__).parameters
        if "height" in known and isinstance(known["height"].default, int):
            return known["width"].default, known["height"].default
        cells = getattr(self.pipeline, "default_sample_size", None) or self._config.get("sample_size")
        if not cells:
            return 1024, 1024
        h, w = cells if isinstance(cells, (list, tuple)) else (cells, cells)
        factor = getattr(self.pipeline, "vae_scale_factor", None) or self.latent_stride
        return w * factor, h * factor

    def _check_size(self, size: tuple[int, int]) -> tuple[int, int]:
        w, h = int(size[0]), int(size[1])
        m = self.multiple
        if w < m or h < m or w % m or h % m:
            near = tuple(max(m, round(v / m) * m) for v in (w, h))
            raise InvalidValueError(
                f"Images of {w}x{h} pixels do not suit {self.name}: width and height must be multiples of {m}. The "
                f"nearest size is {near[0]}x{near[1]}."
            )
        if self.square_only and w != h:
            raise InvalidValueError(f"{self.name} takes square images only; {w}x{h} was given.")
        return w, h
