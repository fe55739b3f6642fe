"""From what taps bring to the maps of a recipe.

Everything that is read is averaged over noise draws first, in float32; a reducer then makes one map of the means at one
timestep.

*Averaged attention* (``{attention: up_cross}``) takes every attention of a kind whose cells are 16 to 32 pixels wide,
averages heads, then layers of one grid, brings the grids to the latent's by nearest neighbour and puts them behind one
another, from coarse to fine: a channel for every text token (cross) or cell (self) of each grid.

*vae-out* is the picture that the denoiser believes in: the clean latent implied by its prediction at this timestep,
decoded. It needs the whole forward pass.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffeat.activations import Catalogue, MapRequest, ModulatedSite, modulated_sites
from diffeat.activations.names import is_pattern
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, did_you_mean
from diffeat.extraction.reading import Reading, Refine
from diffeat.extraction.wanted import AttentionActivation, MapActivation
from diffeat.refinement import low_pass, shrink_map
from diffeat.refinement.adaln import check_channels, modulate

#: Names of the decoded clean image.
CLEAN_IMAGE = ("vae-out", "gdf:vae-out")
_WIDEST, _NARROWEST = 32, 16
_VECTORS = (".shift", ".scale", ".gate")


class Place(NamedTuple):
    """Where a map was read: the activation, and the timestep (of a walk: the save index)."""

    name: str
    step: float

    def __str__(self) -> str:
        return f"{self.name}@{self.step:g}"


#: Massive channels by place.
Channels = Mapping[Place, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class Reducer(ABC):
    """Makes one map.

    Attributes:
        wants: What taps bring for it.
        exact: Whether its means stay float32 instead of the precision in which they were read.
        predicts: Whether the denoiser's prediction is wanted too, under the name :data:`CLEAN_IMAGE` [0].
    """

    name: str
    wants: tuple[str | MapRequest, ...] = ()
    exact: bool = False
    predicts: bool = False

    @property
    def core(self) -> Reducer:
        """What it does before a map is smoothed or shrunk."""
        return self

    @abstractmethod
    def map(self, means: Mapping[str, Tensor], step: float) -> Tensor:
        """The map ``(c, h, w)`` of the means of one picture, by name, at one step."""


@dataclass(frozen=True, kw_only=True)
class Mean(Reducer):
    """An activation as it is."""

    def map(self, means: Mapping[str, Tensor], step: float) -> Tensor:
        return means[self.name]


@dataclass(frozen=True, kw_only=True)
class AttentionMean(Reducer):
    """Averaged attention, at the grid of the latent ``(h, w)`` where the picture size is fixed; ``cell`` in pixels."""

    grid: tuple[int, int] | None
    cell: int

    @classmethod
    def of(cls, attention: AttentionActivation, recipe: Reading, backbone: Backbone) -> AttentionMean:
        """Refused if the model has no such attention at this picture size."""
        side, _, kind = attention.attention.partition("_")
        size = recipe.frame.size if isinstance(recipe.frame.size, tuple) else None
        module = "attn2" if kind == "cross" else "attn1"
        pixels = backbone.latent_stride
        grids = {
            a.id.removesuffix(".q"): a.grid
            for a in Catalogue.of(backbone, size=size)
            if a.id.endswith(f"{module}.q") and a.grid and a.stride and a.stage.startswith(side)
            if _NARROWEST <= a.stride * pixels <= _WIDEST
        }
        if not grids:
            raise InvalidValueError(
                f"There is no {kind}-attention in the {side} stage of {backbone.name} whose cells are {_NARROWEST} to "
                f"{_WIDEST} pixels wide. Ask for single maps instead: {{id: ….{module}.map}}."
            )
        if kind == "self" and size is None:
            raise InvalidValueError(
                "Averaged self-attention has a channel per cell: fix the picture size (frame mode squash)."
            )
        told = {} if kind == "self" else backbone.condition([recipe.prompt]).arguments()
        text = int(told["encoder_hidden_states"].shape[1]) if told else 0
        requests = [
            MapRequest(f"{id}.map", heads="mean", tokens=tuple(range(text or grid[0] * grid[1])))
            for id, grid in grids.items()
        ]
        latent = None if size is None else (size[1] // pixels, size[0] // pixels)
        return cls(name=str(attention), wants=tuple(requests), grid=latent, cell=pixels)

    def map(self, means: Mapping[str, Tensor], step: float) -> Tensor:
        layers = [means[str(request)] for request in self.wants]
        grid = self.grid
        if grid is None:  # that of the finest layer times its stride
            h, w = max((m.shape[-2:] for m in layers), key=lambda s: s[0] * s[1])
            factor = max(1, _NARROWEST // self.cell)
            grid = (h * factor, w * factor)
        return aggregate_attention(layers, grid)


@dataclass(frozen=True, kw_only=True)
class CleanImage(Reducer):
    """The decoded clean image."""

    predicts: bool = True

    def map(self, means: Mapping[str, Tensor], step: float) -> Tensor:
        return means[CLEAN_IMAGE[0]]


@dataclass(frozen=True, kw_only=True)
class AdaLN(Reducer):
    """A modulated input made of the mean raw stream, see :mod:`diffeat.refinement.adaln`."""

    site: ModulatedSite
    refine: Refine
    channels: Channels
    dtype: torch.dtype
    exact: bool = True

    @classmethod
    def of(cls, site: ModulatedSite, refine: Refine, channels: Channels, dtype: torch.dtype) -> AdaLN:
        """The forward pass ends at the consumer of the norm, when its parameters are known."""
        wants = tuple(part for part in (site.raw, site.scale, site.shift) if part is not None)
        return cls(name=site.name, wants=wants, site=site, refine=refine, channels=channels, dtype=dtype)

    def map(self, means: Mapping[str, Tensor], step: float) -> Tensor:
        scale, shift = (None if p is None else means[p] for p in (self.site.scale, self.site.shift))
        raw, norm, discarded = means[self.site.raw], self.site.norm, self.discarded(step)
        feature = modulate(raw, norm, scale, shift, channels=discarded, discard=self.refine.discard)
        return feature.to(self.dtype)

    def discarded(self, step: float) -> list[int]:
        """The channels that are left out at a timestep."""
        return list(self.channels.get(Place(self.name, step), ()))


@dataclass(frozen=True, kw_only=True)
class Changed(Reducer):
    """Another reducer's map, changed as a whole."""

    inner: Reducer
    change: Callable[[Tensor], Tensor]

    @property
    def core(self) -> Reducer:
        return self.inner.core

    @classmethod
    def of(cls, inner: Reducer, change: Callable[[Tensor], Tensor]) -> Changed:
        return cls(name=inner.name, wants=inner.wants, exact=inner.exact, inner=inner, change=change)

    def map(self, means: Mapping[str, Tensor], step: float) -> Tensor:
        return self.change(self.inner.map(means, step))


def _finished(reducer: Reducer, recipe: Reading) -> Reducer:
    """With what the recipe does to every map but a picture."""
    if reducer.predicts:
        return reducer
    if recipe.low_pass is not None:
        reducer = Changed.of(reducer, partial(low_pass, cycles=recipe.low_pass))
    return reducer if recipe.shrink is None else Changed.of(reducer, partial(shrink_map, factor=recipe.shrink))


def reducers_of(recipe: Reading, backbone: Backbone, massive: Channels | None = None) -> list[Reducer]:
    """One for each map of a recipe, in its order; globs become ids. ``massive`` are the channels to discard where the
    recipe says ``detected``.

    Raises:
        UnknownNameError: A glob that selects nothing.
        InvalidValueError: Averaged attention that the model does not have; ``refine`` of what is no modulated input.
    """
    if recipe.refine is not None:
        return list(_refined(recipe, recipe.refine, backbone, massive))
    reducers: dict[str, Reducer] = {}
    for wanted in recipe.activations:
        for reducer in _reducers(wanted, recipe, backbone):
            reducers[reducer.name] = _finished(reducer, recipe)
    return list(reducers.values())


def _reducers(
    wanted: str | AttentionActivation | MapActivation, recipe: Reading, backbone: Backbone
) -> Sequence[Reducer]:
    if isinstance(wanted, AttentionActivation):
        return [AttentionMean.of(wanted, recipe, backbone)]
    if isinstance(wanted, MapActivation):
        return [_mean(wanted.request)]
    if wanted in CLEAN_IMAGE:
        return [CleanImage(name=wanted)]
    if is_pattern(wanted):
        found = Catalogue.of(backbone).find(wanted)
        return [_mean(activation.id) for activation in found if activation.kind != "modulation"]
    if wanted.endswith(_VECTORS):
        raise InvalidValueError(f"{wanted!r} is a vector, not a map: read it with diffeat.read, not in a recipe.")
    return [_mean(wanted)]


def _refined(recipe: Reading, refine: Refine, backbone: Backbone, massive: Channels | None) -> list[Reducer]:
    names = [r.name for a in recipe.activations for r in _reducers(a, recipe, backbone) if isinstance(r, Mean)]
    sites = dict(zip(names, modulated_sites(backbone, names), strict=True))
    channels: Channels = {} if massive is None else massive
    if not isinstance(refine.channels, str):
        by_name = refine.channels if isinstance(refine.channels, dict) else dict.fromkeys(names, refine.channels)
        for name in by_name:
            if name not in sites:
                raise InvalidValueError(
                    f"refine.channels speaks of {name!r}, which the recipe does not read. {did_you_mean(name, names)}"
                )
        channels = {
            Place(name, step): check_channels(numbers, sites[name].norm.channels)
            for name, numbers in by_name.items()
            for step in recipe.trajectory.timesteps
        }
    if refine.discard == "none":
        channels = {}
    return [_finished(AdaLN.of(site, refine, channels, backbone.dtype), recipe) for site in sites.values()]


def _mean(request: str | MapRequest) -> Mean:
    return Mean(name=str(request), wants=(request,))


def aggregate_attention(
    maps: Sequence[Float[Tensor, "k h w"]], grid: tuple[int, int] | None = None
) -> Float[Tensor, "c h2 w2"]:
    """Maps of equal grids are averaged, grids are put behind one another, from coarse to fine.

    Args:
        maps: Per layer, one channel per text token (heads averaged).
        grid: Common grid (h, w), by nearest neighbour; the finest by default.
    """
    by_grid: dict[tuple[int, int], list[Tensor]] = {}
    for m in maps:
        by_grid.setdefault((m.shape[-2], m.shape[-1]), []).append(m)
    grids = sorted(by_grid, key=lambda g: g[0] * g[1])
    target = grid or grids[-1]
    means = [torch.stack(by_grid[g]).mean(0) for g in grids]
    return torch.cat([F.interpolate(m[None], size=target, mode="nearest")[0] for m in means])
