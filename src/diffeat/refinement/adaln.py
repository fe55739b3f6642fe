r"""AdaLN modulation as a formula, with channel discard (DiTF, Gan et al., arXiv:2505.18584, eq. 8 and 9).

With :math:`\bar z` the mean over noise draws of the raw stream that enters block k, and :math:`\gamma, \beta` that
block's own scale and shift,

.. math:: f = (1 + \gamma) \odot \mathrm{norm}(\bar z) + \beta .

The norm is not linear, so averaging the draws before it differs from averaging modulated tensors. Discard of a set M of
massive channels, with :math:`\mu, \sigma` the norm's statistics over all C channels of a token:

* ``pre``: :math:`\bar z_c = 0` for c in M before the norm, as the released code does. The channel is then *not* zero in
  the result, it is :math:`-(1 + \gamma_c)\,\mu / \sigma + \beta_c`.
* ``post``: :math:`f_c = 0` after the modulation, as the paper's text says.
* ``drop``: the channels leave; the norm runs over the C − |M| others, and the result has as many.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.activations.norms import PlainNorm
from diffeat.errors import InvalidValueError, did_you_mean

Discard = Literal["none", "pre", "post", "drop"]


def normalise(raw: Float[Tensor, "c h w"], norm: PlainNorm) -> Float[Tensor, "c h w"]:
    """A layer or RMS norm over the channels of every position, in at least float32."""
    x = raw if raw.dtype == torch.float64 else raw.float()
    if norm.kind == "layer":
        x = x - x.mean(0)
    x = x * torch.rsqrt(x.square().mean(0) + norm.eps)
    if norm.weight is not None:
        x = x * norm.weight.to(x)[:, None, None]
    return x if norm.bias is None else x + norm.bias.to(x)[:, None, None]


def modulate(
    raw: Float[Tensor, "c h w"],
    norm: PlainNorm,
    scale: Float[Tensor, " c"] | None = None,
    shift: Float[Tensor, " c"] | None = None,
    *,
    channels: Sequence[int] = (),
    discard: Discard = "none",
) -> Float[Tensor, "d h w"]:
    """The modulated feature of a raw stream.

    Args:
        raw: Mean over draws of what enters the norm.
        norm: The block's norm.
        scale: Its scale (0 changes nothing), for blocks that have one.
        shift: Its shift, for blocks that have one.
        channels: Channels to discard.
        discard: How; see the module docstring.

    Returns:
        The feature in at least float32; ``C - |channels|`` channels for ``drop``, else ``C``.

    Raises:
        InvalidValueError: A channel does not exist, or the discard is not known.
    """
    if discard not in get_args(Discard):
        raise InvalidValueError(f"No discard {discard!r}. {did_you_mean(discard, get_args(Discard))}")
    chosen = check_channels(channels, len(raw)) if discard != "none" else []
    if discard == "pre" and chosen:
        raw = raw.clone()
        raw[chosen] = 0
    if discard == "drop" and chosen:
        kept = torch.ones(len(raw), dtype=torch.bool, device=raw.device)
        kept[chosen] = False
        raw, norm = raw[kept], _select(norm, kept)
        scale, shift = (None if p is None else p[kept.to(p.device)] for p in (scale, shift))
    result = normalise(raw, norm)
    if scale is not None:
        result = result * (1 + scale.to(result)[:, None, None])
    if shift is not None:
        result = result + shift.to(result)[:, None, None]
    if discard == "post" and chosen:
        result[chosen] = 0
    return result


def check_channels(channels: Sequence[int], count: int) -> list[int]:
    """The channels, sorted and once each.

    Raises:
        InvalidValueError: If one of them does not exist.
    """
    wrong = [c for c in channels if not 0 <= c < count]
    if wrong:
        raise InvalidValueError(
            f"Channel {wrong[0]} cannot be discarded: the activation has channels 0 to {count - 1}. Massive channels "
            "differ from model to model; `diffeat massive` finds those of this one."
        )
    return sorted(set(channels))


def _select(norm: PlainNorm, kept: Tensor) -> PlainNorm:
    weight, bias = (None if p is None else p[kept.to(p.device)] for p in (norm.weight, norm.bias))
    return PlainNorm(norm.kind, int(kept.sum()), norm.eps, weight, bias)
