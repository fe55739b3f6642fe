"""One forward pass, the wanted activations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from diffeat.activations.taps import Taps, Wanted


def read(denoiser: Any, activations: Wanted | Iterable[Wanted], /, **denoiser_kwargs: Any) -> dict[str, Tensor]:
    """Run a denoiser as far as needed and return the activations inside it.

    Args:
        denoiser: A stock diffusers denoiser, or a pipeline or Backbone that holds one.
        activations: Ids (``up_blocks.1``, ``transformer_blocks.14.attn.q``), aliases (``dift:1``) or
            :class:`~diffeat.activations.MapRequest`.
        **denoiser_kwargs: Exactly what ``denoiser.forward`` takes.

    Returns:
        One tensor per name, keyed exactly as asked: ``(B, C, h, w)`` for image activations, ``(B, N, C)`` for
        text tokens, ``(B, C)`` for shift, scale and gate, ``(B, heads, Nq, Nk)`` or reduced for maps. Gradients stay
        attached unless the caller switched them off.

    Raises:
        UnknownNameError: A name this denoiser does not have; the nearest ones are named.
        TapError: The activation exists but this forward pass did not produce it.
    """
    with Taps(denoiser, activations) as taps:
        return taps.run(**denoiser_kwargs)
