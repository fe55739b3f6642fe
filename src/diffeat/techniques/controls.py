"""What ControlNets of each diffusers class are shown of a picture, and how they are called.

A ControlNet is called with arguments of the denoiser call plus a condition :math:`c`, and gives residuals that the
denoiser adds to its own activations. UNet models are shown :math:`c` as a picture. Those of transformers are mostly
shown its latent: here the mean of the autoencoder's posterior, which is the same on every run, where the stock
pipelines draw a sample from it.

Transformers can have more blocks than there are residuals. Residuals are given out here as the denoiser would do it,
one for each of its blocks, so that ControlNets of different depth add up block by block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.backbones import Backbone
from diffeat.backbones.files import said
from diffeat.backbones.hub import near_part
from diffeat.backbones.wrappers import unwrapped
from diffeat.errors import InvalidValueError, ModelError
from diffeat.techniques.base import Call

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin

Residuals = Tensor | Sequence["Residuals"] | None
Form = Literal["picture", "pixels", "latent", "latent without shift"]


class Control:
    """A loaded ControlNet on a backbone. Subclasses say what is special about a diffusers class.

    Attributes:
        same: Entries that both configurations must share.
        takes: Arguments of the denoiser call that it takes too.
        form: What it is shown: the condition in [0, 1] or [-1, 1], or its latent.
        modes: Kinds of condition that it tells apart by number; 0 if it knows one.
    """

    net_class: ClassVar[str]
    denoiser_class: ClassVar[str]
    takes: ClassVar[tuple[str, ...]]
    same: tuple[str, ...]
    form: Form = "latent"
    modes: int = 0

    def __init__(self, net: ModelMixin, backbone: Backbone) -> None:
        self.net = net
        self.backbone = backbone
        self.denoiser: Any = backbone.denoiser

    def unfit(self) -> str:
        """Why it cannot be used on this backbone; empty if it can."""
        mine, theirs = self.net.config, self.denoiser.config
        differ = [
            f"{name} {mine.get(name)} instead of {theirs.get(name)}"
            for name in self.same
            if _plain(mine.get(name)) != _plain(theirs.get(name))
        ]
        return f"was made for another base model: it has {', '.join(differ)}" if differ else ""

    def check_mode(self, mode: int | None) -> None:
        """Refuse a mode that it does not know, or none where it needs one."""
        if self.modes and (mode is None or mode >= self.modes):
            raise InvalidValueError(
                f"This ControlNet knows {self.modes} kinds of condition: give mode=0 to {self.modes - 1} (its card "
                f"says which is which), not {mode}."
            )
        if not self.modes and mode is not None:
            raise InvalidValueError(f"This ControlNet knows one kind of condition; leave mode={mode} out.")

    def show(self, picture: Float[Tensor, "3 h w"]) -> Float[Tensor, "c _h _w"]:
        """A condition in [0, 1] in the form that the ControlNet is shown."""
        if self.form == "picture":
            return picture
        pixels = picture * 2 - 1
        if self.form == "pixels":
            return pixels
        latent = self.backbone.encode_images(pixels[None]).mean[0]
        if self.form == "latent":
            return latent
        vae = self.backbone.pipeline.vae.config
        return latent + (vae.get("shift_factor") or 0.0) * vae.scaling_factor

    def residuals(self, inputs: Call, shown: Tensor, scale: float, mode: int | None) -> Call:
        """What it adds to the denoiser call ``inputs``, as arguments of that call."""
        (samples,) = self.net(**self._given(inputs, shown.to(inputs["hidden_states"]), scale))
        return {"controlnet_block_samples": list(samples)}

    def _given(self, inputs: Call, shown: Tensor | list[Tensor], scale: float) -> Call:
        given = {name: inputs[name] for name in self.takes if inputs.get(name) is not None}
        return {**given, "controlnet_cond": shown, "conditioning_scale": scale, "return_dict": False}


class UNetControl(Control):
    """Stable Diffusion 1.x, 2.x, XL."""

    net_class = "ControlNetModel"
    denoiser_class = "UNet2DConditionModel"
    same = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block", "addition_embed_type")
    takes = ("sample", "timestep", "encoder_hidden_states", "added_cond_kwargs", "class_labels")
    form = "picture"

    def residuals(self, inputs: Call, shown: Tensor, scale: float, mode: int | None) -> Call:
        down, mid = self.net(**self._told(inputs, shown.to(inputs["sample"]), scale, mode))
        return {"down_block_additional_residuals": list(down), "mid_block_additional_residual": mid}

    def _told(self, inputs: Call, shown: Tensor, scale: float, mode: int | None) -> Call:
        return self._given(inputs, shown, scale)


class UNetUnionControl(UNetControl):
    """One net for several kinds of condition; it is told the kind as a one-hot vector and as its index."""

    net_class = "ControlNetUnionModel"

    def __init__(self, net: ModelMixin, backbone: Backbone) -> None:
        super().__init__(net, backbone)
        self.modes = net.config.num_control_type

    def _told(self, inputs: Call, shown: Tensor, scale: float, mode: int | None) -> Call:
        kind = shown.new_zeros(len(shown), self.modes)
        kind[:, mode] = 1
        return {**self._given(inputs, [shown], float(scale)), "control_type": kind, "control_type_idx": [mode]}


class SD3Control(Control):
    """Stable Diffusion 3 and 3.5.

    Nets with ``force_zeros_for_pooled_projection`` were trained without the pooled text and on latents without shift.
    Nets without text have neither text layers nor an embedding of the latent: they take the transformer's.
    """

    net_class = "SD3ControlNetModel"
    denoiser_class = "SD3Transformer2DModel"
    takes = ("hidden_states", "timestep", "encoder_hidden_states", "pooled_projections")

    def __init__(self, net: ModelMixin, backbone: Backbone) -> None:
        super().__init__(net, backbone)
        self.same = ("in_channels", "patch_size", "num_attention_heads", "attention_head_dim", "pooled_projection_dim")
        self._text = net.config.joint_attention_dim is not None
        if self._text:
            self.same += ("joint_attention_dim", "pos_embed_max_size", "qk_norm")
        if net.config.force_zeros_for_pooled_projection:
            self.form = "latent without shift"

    def unfit(self) -> str:
        return super().unfit() or _needs_mask(self.net.config.extra_conditioning_channels)

    def residuals(self, inputs: Call, shown: Tensor, scale: float, mode: int | None) -> Call:
        given = self._given(inputs, shown.to(inputs["hidden_states"]), scale)
        if self.net.config.force_zeros_for_pooled_projection:
            given["pooled_projections"] = torch.zeros_like(given["pooled_projections"])
        if not self._text:
            del given["encoder_hidden_states"]
        if self.net.pos_embed is None:
            given["hidden_states"] = self.denoiser.pos_embed(given["hidden_states"])
        (samples,) = self.net(**given)
        blocks = len(self.denoiser.transformer_blocks)
        return {"block_controlnet_hidden_states": _spread(samples, blocks, lambda i, n: int(i / (blocks / n)))}


class FluxControl(Control):
    """FLUX.1.

    Nets with a block for hints are shown pixels, and their residuals take turns over the blocks of the denoiser; others
    are shown latents, and each residual goes to a run of blocks. A net without guidance is not told it.
    """

    net_class = "FluxControlNetModel"
    denoiser_class = "FluxTransformer2DModel"
    same = ("in_channels", "num_attention_heads", "attention_head_dim", "joint_attention_dim", "pooled_projection_dim",
            "axes_dims_rope")  # fmt: skip
    takes = (
        "hidden_states", "timestep", "encoder_hidden_states", "pooled_projections", "img_ids", "txt_ids", "guidance"
    )  # fmt: skip

    def __init__(self, net: ModelMixin, backbone: Backbone) -> None:
        super().__init__(net, backbone)
        self.modes = net.config.num_mode or 0
        if net.input_hint_block is not None:
            self.form = "pixels"

    def unfit(self) -> str:
        if self.net.config.guidance_embeds and not self.denoiser.config.guidance_embeds:
            return "was made for another base model: it has guidance_embeds True instead of False"
        return super().unfit()

    def residuals(self, inputs: Call, shown: Tensor, scale: float, mode: int | None) -> Call:
        hint = self.form == "pixels"
        shown = shown.to(inputs["hidden_states"])
        given = self._given(inputs, shown if hint else self.backbone.family.pack(shown), scale)
        if not self.net.config.guidance_embeds:
            given.pop("guidance", None)
        if self.modes:
            given["controlnet_mode"] = torch.full((len(shown), 1), mode or 0, device=shown.device)
        double, single = self.net(**given)
        blocks, singles = len(self.denoiser.transformer_blocks), len(self.denoiser.single_transformer_blocks)
        return {
            "controlnet_block_samples": _spread(double, blocks, (lambda i, n: i % n) if hint else _in_runs(blocks)),
            "controlnet_single_block_samples": _spread(single, singles, _in_runs(singles)),
        }


class QwenImageControl(Control):
    """Qwen-Image, union nets included: they know the kind of their condition by themselves."""

    net_class = "QwenImageControlNetModel"
    denoiser_class = "QwenImageTransformer2DModel"
    same = ("in_channels", "num_attention_heads", "attention_head_dim", "joint_attention_dim", "axes_dims_rope")
    takes = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_hidden_states_mask", "img_shapes")

    def unfit(self) -> str:
        return super().unfit() or _needs_mask(self.net.config.extra_condition_channels)

    def residuals(self, inputs: Call, shown: Tensor, scale: float, mode: int | None) -> Call:
        packed = self.backbone.family.pack(shown.to(inputs["hidden_states"]))
        samples = self.net(**self._given(inputs, packed, scale))
        blocks = len(self.denoiser.transformer_blocks)
        return {"controlnet_block_samples": _spread(samples, blocks, _in_runs(blocks))}


class HunyuanDiTControl(Control):
    """Hunyuan-DiT: one residual for each skip connection."""

    net_class = "HunyuanDiT2DControlNetModel"
    denoiser_class = "HunyuanDiT2DModel"
    same = ("in_channels", "patch_size", "hidden_size", "num_attention_heads", "attention_head_dim",
            "cross_attention_dim", "cross_attention_dim_t5", "text_len", "text_len_t5")  # fmt: skip
    takes = (
        "hidden_states", "timestep", "encoder_hidden_states", "text_embedding_mask", "encoder_hidden_states_t5",
        "text_embedding_mask_t5", "image_meta_size", "style", "image_rotary_emb",
    )  # fmt: skip

    def unfit(self) -> str:
        mine, theirs = self.net.config.transformer_num_layers, self.denoiser.config.num_layers
        if mine // 2 != theirs // 2:
            return f"was made for another base model: it has transformer_num_layers {mine} instead of {theirs}"
        return super().unfit()


class SanaControl(Control):
    """Sana: residuals go to the second and the following blocks."""

    net_class = "SanaControlNetModel"
    denoiser_class = "SanaTransformer2DModel"
    same = ("in_channels", "patch_size", "num_attention_heads", "attention_head_dim", "num_cross_attention_heads",
            "cross_attention_dim", "caption_channels")  # fmt: skip
    takes = ("hidden_states", "timestep", "encoder_hidden_states", "encoder_attention_mask")


CONTROLS: tuple[type[Control], ...] = (
    UNetControl,
    UNetUnionControl,
    SD3Control,
    FluxControl,
    QwenImageControl,
    HunyuanDiTControl,
    SanaControl,
)


def load_controlnet(path: str, backbone: Backbone) -> Control:
    """Load a ControlNet for a model; refused if it belongs to another base model, or there are none for this kind."""
    import diffusers

    ours = type(unwrapped(backbone.denoiser)).__name__
    kinds = {kind.net_class: kind for kind in CONTROLS if kind.denoiser_class == ours}
    if not kinds:
        raise ModelError(f"ControlNets are supported for {_supported()}; this model has a {ours}.")
    any_net: Any = diffusers.ControlNetModel
    path = near_part(path)
    try:
        name = any_net.load_config(path).get("_class_name") or next(iter(kinds))
        net = None
        if name in kinds:
            net = getattr(diffusers, name).from_pretrained(path, torch_dtype=backbone.dtype)
    except Exception as error:  # anything a damaged or foreign folder provokes inside the loaders
        raise ModelError(f"The ControlNet {path!r} cannot be loaded ({said(error)}).") from error
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


def add_residuals(inputs: Call, residuals: Call) -> Call:
    """The arguments of a denoiser call with a ControlNet's residuals, added to those of another one if it has some."""
    return {**inputs, **{name: _sum(inputs.get(name), added) for name, added in residuals.items()}}


def _sum(one: Residuals, two: Residuals) -> Residuals:
    if one is None or two is None:
        return two if one is None else one
    if isinstance(one, Tensor) and isinstance(two, Tensor):
        return one + two
    return [_sum(a, b) for a, b in zip_longest(one, two)]


def _spread(samples: Sequence[Tensor] | None, blocks: int, index: Callable[[int, int], int]) -> Sequence[Tensor] | None:
    """One residual per block of the denoiser; ``index`` says which of the given ones a block gets."""
    return samples and [samples[index(i, len(samples))] for i in range(blocks)]


def _in_runs(blocks: int) -> Callable[[int, int], int]:
    return lambda block, count: block // math.ceil(blocks / count)


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, (list, tuple)) else value


def _needs_mask(channels: int) -> str:
    return (
        f"takes {channels} more channels, a mask of parts to fill in; such ones are not supported" if channels else ""
    )
