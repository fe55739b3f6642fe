"""Token sequences to grids, and the positions of image and text in a joint sequence."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.backbones import TokenLayout
from diffeat.errors import ModelError, TapError


def on_grid(name: str, tokens: Float[Tensor, "b n c"], layout: TokenLayout) -> Float[Tensor, "b c h w"]:
    """Image tokens, alone or within a joint sequence, as a contiguous map with memory of its own."""
    try:
        return layout.to_map(tokens).clone(memory_format=torch.contiguous_format)
    except ModelError as reason:
        raise TapError(
            f"{name!r}: {reason} If feed-forward chunking is on, switch it off with `disable_forward_chunking()`."
        ) from None


def fits(layout: TokenLayout, length: int) -> bool:
    """Whether a sequence of this length carries the image."""
    return length in (layout.tokens, layout.images, layout.joint)


def image_spans(name: str, layout: TokenLayout, length: int, batch: int) -> list[slice]:
    """Positions of the image in an attention's sequence; one span if all samples agree, else one per sample."""
    try:
        starts = layout.starts(length, batch)
    except ModelError as reason:
        raise TapError(f"{name!r}: {reason}") from None
    starts = starts[:1] if len(set(starts)) == 1 else starts
    return [slice(s, s + layout.tokens) for s in starts]


def text_spans(layout: TokenLayout, length: int, batch: int) -> list[slice]:
    """Positions of the text (without registers) in a joint sequence of ``length`` tokens."""
    first = layout.text_start()
    if layout.rows is not None and len(set(layout.rows)) > 1:
        return [slice(first, first + layout.rows[b % len(layout.rows)]) for b in range(batch)]
    return [slice(first, first + layout.text - layout.registers)]
