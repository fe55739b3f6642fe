"""The adaptive norms of diffusion transformers: where each one is, and the parameters it applies.

A block k normalises its residual stream ``z`` and modulates it, ``(1 + scale) * norm(z) + shift``, before attention
(site ``msa``) and before the feed-forward (``mlp``); what comes out of them is multiplied by ``gate`` and added to the
stream. Blocks differ in who computes the parameters and in which order; :data:`_RULES` says it for each class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from diffeat.activations import rules
from diffeat.activations.names import bare_denoiser, locate
from diffeat.activations.sources import Source
from diffeat.errors import InvalidValueError, TapError

PARTS = ("shift", "scale", "gate")


@dataclass(frozen=True)
class PlainNorm:
    """A norm over the last axis, before any modulation.

    Attributes:
        kind: ``layer`` subtracts the mean and divides by the standard deviation, ``rms`` divides by the root mean
            square.
        channels: Size of the axis.
        eps: Added under the root.
        weight: Learned factors ``(C,)``, if any.
        bias: Learned offsets ``(C,)``, if any.
    """

    kind: Literal["layer", "rms"]
    channels: int
    eps: float
    weight: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class ModulatedSite:
    """One adaptive norm of one block.

    Attributes:
        name: The activation as it was asked for.
        block: Path of the block.
        raw: Id of the activation that enters the norm: the residual stream, image tokens only.
        norm: The norm.
        rule: Where the parameters are.
    """

    name: str
    block: str
    raw: str
    norm: PlainNorm
    rule: _Rule


@dataclass(frozen=True)
class _Rule:
    """Parameters are slices of one vector: a child's output, or an argument of a child or of the block itself."""

    norm: str
    child: str = "norm1.linear"
    argument: str | None = None
    shift: int | None = 0
    scale: int | None = 1
    gate: int | None = 2
    table: bool = False
    tanh: bool = False


def _second(rule: _Rule, norm: str, by: int = 3) -> _Rule:
    """The rule of the feed-forward's norm, whose parameters follow those of the attention's."""
    moved = {p: None if getattr(rule, p) is None else getattr(rule, p) + by for p in PARTS}
    return replace(rule, norm=norm, **moved)


_ZERO = _Rule("norm1")
_SINGLE = _Rule("norm", "norm.linear")
_TABLE = _Rule("norm1", "", "timestep", table=True)
_RMS = {"shift": None, "scale": 0, "gate": 1, "tanh": True}
_LUMINA = _Rule("norm1", **_RMS)
_Z_IMAGE = _Rule("attention_norm1", "adaLN_modulation", **_RMS)
_QWEN = _Rule("img_norm1", "img_mod")
_FLUX2 = _Rule("norm1", "", "temb_mod_img")
_CHROMA = _Rule("norm1", "norm1", "emb")
_COGVIEW = _Rule("norm1", scale=2, gate=4)
_BOTH = {"attn": _ZERO, "ff": _second(_ZERO, "norm2")}

#: By class of block and by the child that consumes the modulated tensor.
_RULES: dict[str, dict[str, _Rule]] = {
    "AuraFlowJointTransformerBlock": _BOTH,
    "AuraFlowSingleTransformerBlock": _BOTH,
    "ChromaSingleTransformerBlock": {"attn": replace(_CHROMA, norm="norm", child="norm")},
    "ChromaTransformerBlock": {"attn": _CHROMA, "ff": _second(_CHROMA, "norm2")},
    "CogView4TransformerBlock": {"attn1": _COGVIEW, "ff": _second(_COGVIEW, "norm2", 6)},
    "Flux2SingleTransformerBlock": {"attn": replace(_FLUX2, norm="norm", argument="temb_mod")},
    "Flux2TransformerBlock": {"attn": _FLUX2, "ff": _second(_FLUX2, "norm2")},
    "FluxSingleTransformerBlock": {"attn": _SINGLE},
    "FluxTransformerBlock": _BOTH,
    "HunyuanDiTBlock": {"attn1": _Rule("norm1", scale=None, gate=None)},
    "JointTransformerBlock": {**_BOTH, "attn2": _second(_ZERO, "norm1", 6)},
    "Lumina2TransformerBlock": {"attn": _LUMINA, "feed_forward": _second(_LUMINA, "ffn_norm1", 2)},
    "QwenImageTransformerBlock": {"attn": _QWEN, "img_mlp": _second(_QWEN, "img_norm2")},
    "SanaTransformerBlock": {"attn1": _TABLE, "ff": _second(_TABLE, "norm2")},
    "ZImageTransformerBlock": {"attention": _Z_IMAGE, "feed_forward": _second(_Z_IMAGE, "ffn_norm1", 2)},
}
#: BasicTransformerBlock by its ``norm_type``.
_BASIC = {
    "ada_norm_zero": {"attn1": _ZERO, "ff": _second(_ZERO, "norm3")},
    "ada_norm_single": {"attn1": _TABLE, "ff": _second(_TABLE, "norm2")},
}


def modulated_sites(denoiser: Any, names: Iterable[str]) -> list[ModulatedSite]:
    """The adaptive norm behind each ``adaln`` activation (ids or aliases).

    Raises:
        UnknownNameError: The denoiser has no such activation.
        InvalidValueError: The activation is not a modulated input.
    """
    network = bare_denoiser(denoiser)
    names = list(names)
    return [_site(network, n, s) for n, s in zip(names, locate(network, names), strict=True)]


def _site(denoiser: nn.Module, name: str, source: Source) -> ModulatedSite:
    path, _, consumer = source.module.rpartition(".")
    block = denoiser.get_submodule(path)
    kind = rules.class_name(block)
    known = _BASIC.get(str(getattr(block, "norm_type", ""))) if kind == "BasicTransformerBlock" else _RULES.get(kind)
    rule = (known or {}).get(consumer)
    if rule is None or source.where != "input" or not rules.is_modulated(block):
        raise InvalidValueError(
            f"{name!r} is no modulated input, so it has no AdaLN to refine. Ask for an 'adaln' activation, such as "
            "'ditf:14', or leave 'refine' out of the recipe."
        )
    return ModulatedSite(name, path, f"{path}.{rule.norm}.in", plain_norm(block.get_submodule(rule.norm)), rule)


def plain_norm(module: nn.Module) -> PlainNorm:
    """The norm inside a norm module of diffusers, adaptive or not."""
    inner = getattr(module, "norm", module)
    weight, bias = _stored(inner, "weight"), _stored(inner, "bias")
    if isinstance(inner, nn.LayerNorm):
        return PlainNorm("layer", int(inner.normalized_shape[-1]), inner.eps, weight, bias)
    if rules.class_name(inner) == "RMSNorm":
        size = getattr(inner, "dim", None) or inner.normalized_shape  # diffusers' own, or torch's
        eps = inner.eps if inner.eps is not None else torch.finfo(torch.float32).eps  # type: ignore[arg-type]
        return PlainNorm("rms", int(size[-1]), eps, weight, bias)  # type: ignore[arg-type, index]
    raise InvalidValueError(f"The norm {rules.class_name(inner)} is not known here; only layer and RMS norms are.")


class ModulationTaps:
    """Reads the modulation parameters of sites while a denoiser runs inside the ``with`` block.

    Use it around a forward pass that somebody else makes (such as :meth:`Taps.run` with the ``adaln`` activations of
    the same sites), then call :meth:`collect`.

    Args:
        denoiser: Network, pipeline or backbone.
        sites: Of that denoiser.
    """

    def __init__(self, denoiser: Any, sites: Sequence[ModulatedSite]) -> None:
        self._denoiser = bare_denoiser(denoiser)
        self._sites = list(sites)
        self._handles: list[RemovableHandle] = []
        self._seen: dict[tuple[str, str, str | None], Tensor] = {}

    def __enter__(self) -> ModulationTaps:
        for key in dict.fromkeys(_key(s) for s in self._sites):
            module = self._denoiser.get_submodule(".".join(p for p in key[:2] if p))
            if key[2] is None:
                self._handles.append(module.register_forward_hook(self._on_output(key)))
            else:
                self._handles.append(module.register_forward_pre_hook(self._on_argument(key), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._seen = {}

    def collect(self, rows: int) -> list[dict[str, Tensor]]:
        """Per site, those of shift, scale and gate that exist, each ``(rows, C)`` in float32; forgets them.

        Raises:
            TapError: A site did not run.
        """
        found = [self._parts(site, rows) for site in self._sites]
        self._seen = {}
        return found

    def _parts(self, site: ModulatedSite, rows: int) -> dict[str, Tensor]:
        if _key(site) not in self._seen:
            raise TapError(f"{site.name!r}: the forward pass went by without computing its modulation.")
        rule, c = site.rule, site.norm.channels
        values = self._seen[_key(site)].float()[:rows]  # edit models append the parameters of reference images
        values = values.reshape(len(values), -1)
        if rule.table:
            table = _stored(self._denoiser.get_submodule(site.block), "scale_shift_table")
            values = values + table.to(values).reshape(1, -1)  # type: ignore[union-attr]
        parts = {}
        for name in PARTS:
            index = getattr(rule, name)
            if index is not None:
                part = values[:, index * c : (index + 1) * c].expand(rows, c)
                parts[name] = part.tanh() if name == "gate" and rule.tanh else part
        return parts

    def _on_output(self, key: tuple[str, str, str | None]) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            self._seen.setdefault(key, output)

        return hook

    def _on_argument(self, key: tuple[str, str, str | None]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            bound = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
            self._seen.setdefault(key, bound[key[2]])  # type: ignore[index]

        return hook


def _stored(module: nn.Module, name: str) -> Tensor | None:
    """A parameter, also where sequential offloading keeps it elsewhere while the module does not run."""
    value = getattr(module, name, None)
    if value is not None and value.is_meta and hasattr(module, "_hf_hook"):
        return module._hf_hook.weights_map[name]  # type: ignore[union-attr, index]
    return value


def _key(site: ModulatedSite) -> tuple[str, str, str | None]:
    return site.block, site.rule.child, site.rule.argument
