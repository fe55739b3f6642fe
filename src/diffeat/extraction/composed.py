"""Activations that are made of others: averaged attention, the decoded clean image, maps made smaller.

*Averaged attention* (``{attention: up_cross}``) takes every attention of a kind whose cells are 16 to 32 pixels wide,
averages heads, then layers of one grid, brings the grids to the latent's by nearest neighbour and puts them behind one
another, from coarse to fine: a channel for every text token (cross) or cell (self) of each grid.

*vae-out* is the picture that the denoiser believes in: the clean latent implied by its prediction at this timestep,
decoded. It needs the whole forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffeat.activations import Catalogue, MapRequest
from diffeat.activations.sites import candidates
from diffeat.backbones import Backbone
from diffeat.backbones.family import Family
from diffeat.errors import InvalidValueError
from diffeat.extraction.joins.attention_features import aggregate_attention
from diffeat.extraction.recipe import AttentionActivation, Recipe
from diffeat.refinement import shrink_map
from diffeat.trajectories import Row

CLEAN_IMAGE = ("vae-out", "gdf:vae-out")
_WIDEST, _NARROWEST = 32, 16

Maps = dict[tuple[float, str], Tensor]


def wanted_activations(recipe: Recipe, backbone: Backbone) -> list[str | MapRequest]:
    """What taps read for a recipe, see :class:`Composer`."""
    return Composer(recipe, backbone).names


class Composer:
    """Makes the maps of a recipe out of what taps read.

    Attributes:
        names: What taps read: globs become ids, averaged attention becomes its maps.
        clean: The names under which the clean image is wanted.

    Raises:
        InvalidValueError: Averaged attention of a model or picture size that has none, or vae-out of packed latents.
    """

    def __init__(self, recipe: Recipe, backbone: Backbone) -> None:
        self._recipe = recipe
        self._backbone = backbone
        self._attention: dict[str, list[str]] = {}
        self.clean = [a for a in recipe.activations if isinstance(a, str) and a in CLEAN_IMAGE]
        if self.clean and type(backbone.family).pack is not Family.pack:
            raise InvalidValueError(
                f"{self.clean[0]!r} is for models whose denoiser takes the latent as it is; {backbone.family.name} "
                "packs it."
            )
        self._helper = len(recipe.activations) == len(self.clean)
        self.names: list[str | MapRequest] = []
        for wanted, request in zip(recipe.activations, recipe.requests(), strict=True):
            if isinstance(wanted, AttentionActivation):
                maps = _attention_maps(wanted, recipe, backbone)
                self._attention[str(wanted)] = [str(m) for m in maps]
                self.names += maps
            elif isinstance(request, str) and any(c in request for c in "*?["):
                self.names += [a.id for a in Catalogue.of(backbone).find(request)]
            elif request is not None and wanted not in CLEAN_IMAGE:
                self.names.append(request)
        if self._helper:  # taps need something to read; the whole forward pass is run for the clean image anyway
            self.names.append(next(candidates(backbone.denoiser)).id)

    def run(self, taps: Any, part: list[tuple[int, Row]], arguments: dict[str, Any]) -> dict[str, Tensor]:
        """One forward pass; the clean image comes out as one more map (3, H, W)."""
        if not self.clean:
            return taps.run(**arguments)
        predicted: list[Tensor] = []
        hook = self._backbone.denoiser.register_forward_hook(lambda _, __, output: predicted.append(output[0]))
        try:
            found = taps.run(**arguments)
        finally:
            hook.remove()
        noisy = arguments[self._backbone.family.latent_argument]
        prediction = self._backbone.family.unpack(predicted[0], noisy)[:, : noisy.shape[1]]
        times = torch.tensor([row.timestep for _, row in part], device=noisy.device)
        image = self._backbone.decode(self._backbone.estimate_clean(noisy, times, prediction))
        return ({} if self._helper else found) | dict.fromkeys(self.clean, image)

    def finish(self, maps: Maps) -> Maps:
        """Averaged attention in place of its maps, in the recipe's order, and everything as small as wanted."""
        if self._attention:
            maps = self._joined(maps)
        factor = self._recipe.shrink
        if factor is not None:
            maps = {key: m if key[1] in CLEAN_IMAGE else shrink_map(m, factor) for key, m in maps.items()}
        return maps

    def _joined(self, maps: Maps) -> Maps:
        members = {name for parts in self._attention.values() for name in parts}
        times = list(dict.fromkeys(t for t, _ in maps))
        plain = [name for name in dict.fromkeys(n for _, n in maps) if name not in members]
        result: Maps = {}
        for t in times:
            result |= {(t, name): maps[t, name] for name in plain}
            for name, parts in self._attention.items():
                layers = [maps[t, part] for part in parts]
                cell = self._backbone.latent_stride
                grid = _grid_of(layers, self._recipe, self._backbone, cell)
                result[t, name] = aggregate_attention(layers, grid)
        return result


def _attention_maps(wanted: AttentionActivation, recipe: Recipe, backbone: Backbone) -> list[MapRequest]:
    """The maps that an averaged attention is made of."""
    side, _, kind = wanted.attention.partition("_")
    size = recipe.frame.size
    catalogue = Catalogue.of(backbone, size=size if isinstance(size, tuple) else None)
    module = "attn2" if kind == "cross" else "attn1"
    grids = {
        a.id.removesuffix(".q"): a.grid
        for a in catalogue
        if a.id.endswith(f"{module}.q") and a.grid and a.stride and a.stage.startswith(side)
        and _NARROWEST <= a.stride * backbone.latent_stride <= _WIDEST
    }  # fmt: skip
    if not grids:
        raise InvalidValueError(
            f"There is no {kind}-attention in the {side} stage of {backbone.name} whose cells are {_NARROWEST} to "
            f"{_WIDEST} pixels wide. Ask for single maps instead: {{id: ….{module}.map}}."
        )
    if kind == "self" and not isinstance(size, tuple):
        raise InvalidValueError(
            "Averaged self-attention has a channel per cell: fix the picture size (frame mode squash)."
        )
    length = 0 if kind == "self" else _text_length(backbone, recipe)
    return [
        MapRequest(f"{id}.map", heads="mean", tokens=tuple(range(length or grid[0] * grid[1])))
        for id, grid in grids.items()
    ]


def _text_length(backbone: Backbone, recipe: Recipe) -> int:
    arguments = backbone.condition([recipe.prompt]).arguments()
    return int(arguments["encoder_hidden_states"].shape[1])


def _grid_of(layers: list[Tensor], recipe: Recipe, backbone: Backbone, cell: int) -> tuple[int, int]:
    """The latent's grid: that of the finest layer times its stride."""
    finest = max(layers, key=lambda m: m.shape[-2] * m.shape[-1])
    h, w = int(finest.shape[-2]), int(finest.shape[-1])
    if isinstance(recipe.frame.size, tuple):
        width, height = recipe.frame.size
        return height // cell, width // cell
    factor = _NARROWEST // cell
    return h * max(1, factor), w * max(1, factor)
