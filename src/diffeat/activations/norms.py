"""The norm inside an adaptive norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffeat.errors import InvalidValueError


@dataclass(frozen=True)
class PlainNorm:
    """A norm over the last axis, before any modulation, with its learned factors and offsets ``(C,)``, if any.

    Attributes:
        kind: ``layer`` subtracts the mean and divides by the standard deviation, ``rms`` divides by the root mean
            square.
        channels: Size of the axis.
        eps: Added under the root.
    """

    kind: Literal["layer", "rms"]
    channels: int
    eps: float
    weight: Tensor | None = None
    bias: Tensor | None = None


def plain_norm(module: nn.Module) -> PlainNorm:
    """The norm inside a norm module of diffusers, adaptive or not; refused if it is no layer norm and no RMS norm."""
    inner: Any = getattr(module, "norm", module)
    weight, bias = stored(inner, "weight"), stored(inner, "bias")
    if isinstance(inner, nn.LayerNorm):
        return PlainNorm("layer", int(inner.normalized_shape[-1]), inner.eps, weight, bias)
    if type(inner).__name__ == "RMSNorm":
        size = getattr(inner, "dim", None) or inner.normalized_shape  # diffusers' own, or torch's
        eps = inner.eps if inner.eps is not None else torch.finfo(torch.float32).eps
        return PlainNorm("rms", int(size[-1]), eps, weight, bias)
    raise InvalidValueError(f"The norm {type(inner).__name__} is not known here; only layer and RMS norms are.")


def stored(module: nn.Module, name: str) -> Tensor | None:
    """A parameter, also where sequential offloading keeps it elsewhere while the module does not run."""
    value = getattr(module, name, None)
    hook: Any = getattr(module, "_hf_hook", None)
    return hook.weights_map[name] if value is not None and value.is_meta and hook is not None else value
