"""Resizing, normalising and joining feature maps of one picture.

Maps have shape ``(C, h, w)``. Resizing is bilinear with the half-pixel convention (``align_corners=False``), the one
all systems here use. They differ in what they do to a map that shrinks, and some copy the nearest cell instead:
:data:`Resize`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import InvalidValueError

#: ``"smooth"``: bilinear, averages areas where a map shrinks; ``"bilinear"``: between the four nearest cells even then;
#: ``"nearest"``: a copy of one cell, ``floor(i · n / m)``.
Resize = Literal["smooth", "bilinear", "nearest"]


def resize_map(
    feature: Float[Tensor, "c h w"], grid: tuple[int, int], resize: Resize = "smooth"
) -> Float[Tensor, "c h2 w2"]:
    """The map at ``grid = (h, w)``.

    Raises:
        InvalidValueError: A side is below 1.
    """
    if min(grid) < 1:
        raise InvalidValueError(f"A grid has one cell or more each way, not {tuple(grid)}.")
    if tuple(feature.shape[-2:]) == tuple(grid):
        return feature
    wide = feature[None].float()
    if resize == "nearest":
        return F.interpolate(wide, size=grid, mode="nearest")[0].to(feature.dtype)
    shrinks = grid[0] < feature.shape[-2] or grid[1] < feature.shape[-1]
    smooth = shrinks and resize == "smooth"
    return F.interpolate(wide, size=grid, mode="bilinear", align_corners=False, antialias=smooth)[0].to(feature.dtype)


def low_pass(feature: Float[Tensor, "c h w"], cycles: float) -> Float[Tensor, "c h w"]:
    r"""What is coarser than so many cycles per shorter side: a frequency f is left with :math:`2^{-(f / f_0)^2}` of it.
    The map is mirrored at its edges.

    Raises:
        InvalidValueError: There are no cycles.

    Example:
        >>> low_pass(torch.ones(1, 4, 6), 1).allclose(torch.ones(1, 4, 6))
        True
    """
    if not cycles > 0:
        raise InvalidValueError(f"A map is left with more than 0 cycles, not {cycles:g}.")
    h, w = feature.shape[1:]
    whole = feature.float()
    whole = torch.cat([whole, whole.flip(1)], 1)
    whole = torch.cat([whole, whole.flip(2)], 2)
    y, x = torch.fft.fftfreq(2 * h, 1 / min(h, w)), torch.fft.rfftfreq(2 * w, 1 / min(h, w))
    kept = torch.exp2(-(y[:, None] ** 2 + x**2) / cycles**2).to(whole.device)
    return torch.fft.irfft2(torch.fft.rfft2(whole) * kept, s=(2 * h, 2 * w))[:, :h, :w].to(feature.dtype)


def shrink_map(feature: Float[Tensor, "c h w"], factor: int) -> Float[Tensor, "c h2 w2"]:
    """Average over areas, ``factor`` times fewer cells each way (rounded down, one at least).

    Raises:
        InvalidValueError: ``factor`` is below 1.
    """
    if factor < 1:
        raise InvalidValueError(f"A map is shrunk by 1 or more, not by {factor}.")
    h, w = feature.shape[-2:]
    smaller = F.adaptive_avg_pool2d(feature[None].float(), (max(1, h // factor), max(1, w // factor)))
    return smaller[0].to(feature.dtype)


def normalise_channels(feature: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """Unit length of the channel vector at every position (zero vectors stay zero)."""
    return F.normalize(feature.float(), dim=0).to(feature.dtype)


def largest_grid(maps: Sequence[Tensor]) -> tuple[int, int]:
    """The grid ``(h, w)`` with the most cells. Raises InvalidValueError if there is no map."""
    if not maps:
        raise InvalidValueError("There are no maps to join.")
    best = max(maps, key=lambda m: m.shape[-2] * m.shape[-1])
    return int(best.shape[-2]), int(best.shape[-1])


def concatenate(
    maps: Sequence[Tensor],
    grid: tuple[int, int] | None = None,
    normalise: bool = False,
    resize: Resize = "smooth",
) -> Float[Tensor, "c h w"]:
    """Join maps on the channel axis at one grid (default: the largest among them).

    Args:
        maps: Maps ``(C_i, h_i, w_i)``.
        grid: Common grid ``(h, w)``.
        normalise: Give every map unit length per position first, so that none outweighs the others.

    Example:
        >>> concatenate([torch.ones(3, 8, 8), torch.ones(5, 16, 16)]).shape
        torch.Size([8, 16, 16])
    """
    grid = grid or largest_grid(maps)
    resized = [resize_map(m, grid, resize) for m in maps]
    if normalise:
        resized = [normalise_channels(m) for m in resized]
    return torch.cat(resized)


def check_same_channels(channels: Sequence[int]) -> None:
    """
    Raises:
        InvalidValueError: They are not all equal.
    """
    if len(set(channels)) > 1:
        raise InvalidValueError(
            f"A mean needs maps with the same channels, these have {sorted(set(channels))}. Use fuse 'concat' instead."
        )


def mean_of_maps(
    maps: Sequence[Tensor], grid: tuple[int, int] | None = None, resize: Resize = "smooth"
) -> Float[Tensor, "c h w"]:
    """Mean of maps with the same channels, at one grid (default: the largest among them).

    Raises:
        InvalidValueError: If the channel counts differ.
    """
    check_same_channels([m.shape[0] for m in maps])
    grid = grid or largest_grid(maps)
    return torch.stack([resize_map(m, grid, resize).float() for m in maps]).mean(0).to(maps[0].dtype)
