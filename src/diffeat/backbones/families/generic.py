"""Any other text-to-image pipeline: how it calls its denoiser is read off two recorded calls.

The calls (one prompt, and the same prompt twice) show which argument is the latent, whether it is packed into tokens,
in which unit time is given, and which arguments have a batch axis.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffeat.backbones.family import TIME_UNITS, Family, Size, TimeUnit, TokenisedText
from diffeat.backbones.layout import (
    Call,
    Config,
    TokenLayout,
    by_ids,
    by_shapes,
    map_grid,
    pack_patches,
    text_length,
    unpack_patches,
)
from diffeat.errors import ModelError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_LATENT_NAMES = ("sample", "hidden_states", "x", "latents")
_TIME_NAMES = ("timestep", "timesteps", "t")


class Generic(Family):
    name = "generic"
    denoiser_class = ""

    packed = False
    frames = False
    # modules that diffusers calls alike in many transformers
    text_modules = frozenset(
        "add_q_proj add_k_proj add_v_proj to_add_out norm_added_q norm_added_k norm1_context norm2_context ff_context "
        "context_embedder caption_projection text_embedder".split()
    )

    def layout(self, config: Config, call: Call) -> TokenLayout:
        if call.get("img_ids") is not None:
            return by_ids(call)
        if call.get("img_shapes") is not None:
            return by_shapes(call)
        for name in _LATENT_NAMES:
            value = call.get(name)
            if isinstance(value, Tensor) and value.ndim in (4, 5):
                h, w = map_grid(config, value)
                frames = value.shape[2] if value.ndim == 5 else 1
                return TokenLayout((frames * h, w), text=text_length(call.get("encoder_hidden_states")))
        raise ModelError(
            "Nothing in this denoiser call tells how its image tokens lie: there is no latent map, no img_ids and no "
            f"img_shapes among its arguments ({', '.join(k for k, v in call.items() if v is not None)})."
        )

    def latent_channels(self, config: Config) -> None:
        """Said by the recorded calls."""

    def patch(self, config: Config) -> int:
        patch = config.get("patch_size") or 1
        return 2 if self.packed else patch if isinstance(patch, int) else patch[-1]

    def dummy(self, config: Config, latent: Size) -> Call:
        name = config.get("_class_name", "denoiser of this class")
        raise ModelError(f"The arguments of a {name} are not known; give those of a real call as `inputs=`.")

    def call_arguments(
        self, pipeline: DiffusionPipeline, prompts: list[str], size: tuple[int, int], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        known = inspect.signature(pipeline.__call__).parameters
        denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
        off = {"true_cfg_scale": 1.0, "use_resolution_binning": False, "clean_caption": False}
        if not denoiser.config.get("guidance_embeds"):
            off["guidance_scale"] = 1.0
        off = {k: v for k, v in off.items() if k in known}
        return super().call_arguments(pipeline, prompts, size, off | dict(options))

    def learn(self, one: Mapping[str, Any], two: Mapping[str, Any], latent: tuple[int, ...], t: float) -> None:
        """Understand how the denoiser is called.

        Args:
            one: Its arguments for one prompt.
            two: Its arguments for that prompt twice.
            latent: Channels, rows and columns of the latent that belongs to the calls.
            t: The timestep of the calls, 0 to 1000.
        """
        self.latent_argument = _only("latent", _LATENT_NAMES, one)
        self.timestep_argument = _only("timestep", _TIME_NAMES, one)
        value = one[self.latent_argument]
        c, h, w = latent
        shape = tuple(value.shape)
        if shape not in {(1, c, h, w), (1, c, 1, h, w), (1, h // 2 * (w // 2), 4 * c)}:
            raise ModelError(
                f"The denoiser is given {self.latent_argument!r} of shape {shape}, which is neither the latent "
                f"{(1, *latent)} nor its 2x2 patches; guidance may still be on. This pipeline is not supported."
            )
        self.packed, self.frames = value.ndim == 3, value.ndim == 5
        given = float(torch.as_tensor(one[self.timestep_argument]).flatten()[0])
        tell: dict[TimeUnit, float] = {unit: told(t) for unit, (told, _) in TIME_UNITS.items()}
        units: list[TimeUnit] = [u for u, told in tell.items() if abs(given - told) <= 5e-3 * max(1.0, abs(told))]
        if not units:
            raise ModelError(f"The denoiser is given the timestep {given:g} where the schedule says {t:g}.")
        self.time = units[0]
        self.shared = frozenset(name for name in one if _same_shape(one[name], two[name]))

    def timestep(self, t: Tensor, dtype: torch.dtype, config: Config) -> Tensor:
        return TIME_UNITS[self.time][0](t)

    def pack(self, latents: Tensor) -> Tensor:
        if self.packed:
            return pack_patches(latents)
        return latents[:, :, None] if self.frames else latents

    def unpack(self, output: Tensor, latents: Tensor) -> Tensor:
        if self.packed:
            return unpack_patches(output, (latents.shape[-2], latents.shape[-1]))
        return output[:, :, 0] if self.frames else output

    def texts(self, pipeline: DiffusionPipeline, prompt: str) -> list[TokenisedText]:
        if getattr(pipeline, "tokenizer", None) is None:
            raise ModelError(f"{type(pipeline).__name__} has no tokenizer to find words with.")
        return [TokenisedText(pipeline.tokenizer, prompt)]


def _only(what: str, names: tuple[str, ...], arguments: Mapping[str, Any]) -> str:
    for name in names:
        if arguments.get(name) is not None:
            return name
    raise ModelError(
        f"None of the denoiser's arguments ({', '.join(arguments)}) is known to be the {what}; this pipeline is not "
        "supported."
    )


def _same_shape(one: Any, two: Any) -> bool:
    """Whether an argument has no batch axis: it looks the same for one prompt and for two."""
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one.shape == two.shape
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(_same_shape(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, Mapping):
        return all(_same_shape(one[k], two[k]) for k in one)
    return True
