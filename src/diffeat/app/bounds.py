"""What one request may take. A link can ask for anything; what would take hours, or all memory, is refused in words.

What is asked for is bounded as a whole, not number by number: 64 draws of one timestep, or one of a large image. What
is within the bounds is still ended when the browser leaves (:mod:`diffeat.app.line`).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from torch import Tensor

from diffeat.activations import Activation, Catalogue
from diffeat.errors import InvalidValueError
from diffeat.extraction import Extractor, JoinedSource

#: Forward passes, as many as take the time of these at the model's own size, and values that are read.
PASSES, VALUES = 1024, 1 << 29
#: Pixels of all pictures in which a point is sought, or which are written.
PIXELS = 256_000_000
#: Points times the pixels that each is compared with.
SEARCHED = 1 << 35
#: Values that are split into parts; products of values, where all places are compared with all.
SPLIT, PRODUCTS = 1 << 25, 1 << 37


class Load(NamedTuple):
    """What reading one picture takes."""

    passes: float
    values: float


def check_reading(source: object, sizes: Iterable[tuple[int, int]]) -> None:
    """
    Args:
        sizes: (width, height) of the pictures that would be read.

    Raises:
        InvalidValueError: That is more than a request may take.
    """
    loads = [load_of(source, size) for size in sizes]
    passes, values = sum(load.passes for load in loads), sum(load.values for load in loads)
    if passes > PASSES:
        raise InvalidValueError(
            f"This takes as long as {passes:,.0f} forward passes at the model's own size; the page does {PASSES:,} at "
            "once. Take fewer timesteps, draws or pictures, or a smaller size; or use Python."
        )
    if values > VALUES:
        raise InvalidValueError(
            f"These are {values / 2**28:.1f} GB of features; the page reads {VALUES / 2**28:.0f} at once. Take fewer "
            "timesteps, activations or pictures, or a smaller size; or use Python."
        )


def check_pixels(sizes: Iterable[tuple[int, int]]) -> None:
    """
    Raises:
        InvalidValueError: These are more than a request may search or write.
    """
    if (pixels := sum(map(prod, sizes))) > PIXELS:
        raise InvalidValueError(
            f"These pictures have {pixels / 1e6:,.0f} million pixels; the page takes {PIXELS / 1e6:,.0f} million at "
            "once. Take fewer pictures."
        )


def check_search(points: int, sizes: Iterable[tuple[int, int]]) -> None:
    """
    Raises:
        InvalidValueError: So many points in pictures of these sizes are more than a request may look for.
    """
    if (pixels := sum(map(prod, sizes))) * points > SEARCHED:
        raise InvalidValueError(
            f"{points:,} points would be looked for among {pixels / 1e6:,.0f} million pixels (a box counts as many "
            "points), which takes too long on a page. Take fewer, or smaller pictures; or use diffeat transfer."
        )


def check_split(maps: Iterable[Tensor]) -> None:
    """
    Raises:
        InvalidValueError: These are more values than a request may split into parts.
    """
    if (values := sum(each.numel() for each in maps)) > SPLIT:
        raise InvalidValueError(
            f"These are {values / 1e6:,.0f} million values; the page splits {SPLIT / 1e6:,.0f} million at once. Take "
            "fewer pictures, a coarser activation or a smaller size; or use diffeat segment."
        )


def check_pairs(one: int, other: int, channels: int) -> None:
    """
    Args:
        one: Places, each of which is compared with each of ``other`` by so many channels.

    Raises:
        InvalidValueError: That is more than a request may take.
    """
    if one * other * channels > PRODUCTS:
        raise InvalidValueError(
            f"Each of {one:,} places would be compared with each of {other:,}, which takes too long on a page. Take a "
            "coarser activation or a smaller size; or use Python."
        )


def load_of(source: object, size: tuple[int, int]) -> Load:
    """What it takes a source to read a picture of ``size``; nothing where no diffusion model takes part.

    A pass over an image of r times the pixels that the model is made for takes between r and r² times as long, of
    which convolutions make the first and attention the second: r to the power of 1.5 is counted.
    """
    if isinstance(source, JoinedSource):
        parts = [load_of(part, size) for part in source.sources]
        return Load(sum(part.passes for part in parts), sum(part.values for part in parts))
    if not isinstance(source, Extractor):
        return Load(0, 0)
    backbone, recipe = source.backbone, source.recipe
    ratio = ratio_of(source, size)
    catalogue = Catalogue.of(backbone)
    read = [catalogue[name] for name in source.names if name in catalogue]
    finest = max((prod(a.grid) for a in catalogue if a.grid), default=1) * ratio
    at_finest = recipe.fuse is not None and recipe.fuse.kind == "concat"
    values = sum(a.channels * finest if at_finest and a.grid else _values(a, ratio, finest) for a in read)
    passes = rows_of(source) * ratio * max(1, ratio) ** 0.5
    return Load(passes, values * len(source.steps) * len(source.plan.readers))


def ratio_of(source: Extractor, size: tuple[int, int]) -> float:
    """Pixels of the model's image of a picture of ``size``, over those that the model is made for."""
    backbone = source.backbone
    return prod(backbone.frame(source.recipe.frame, size).model) / prod(backbone.default_size)


def _values(a: Activation, ratio: float, finest: float) -> float:
    if a.grid is not None:
        return a.channels * prod(a.grid) * ratio
    looks_at_itself = a.id.endswith((".attn1.map", ".self_map"))
    return (a.channels * ratio) ** 2 if looks_at_itself else a.channels * finest


def rows_of(source: object) -> int:
    """Rows of denoiser calls that one picture takes."""
    if isinstance(source, JoinedSource):
        return sum(rows_of(part) for part in source.sources)
    if not isinstance(source, Extractor):
        return 0
    path = source.recipe.trajectory
    return path.steps or 0 if path.stepped else source.plan.cost().rows
