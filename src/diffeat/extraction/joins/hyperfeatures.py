"""The fusion ``hyperfeatures`` of a recipe: a trained aggregation network over all activations and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffeat.activations import Catalogue
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction.joins.aggregation import AggregationNetwork
from diffeat.extraction.joins.aggregation_files import check_fits, load, weights_file
from diffeat.geometry import file_digest

if TYPE_CHECKING:
    from diffeat.extraction.recipe import Recipe

#: Name of the map that comes out.
FUSED = "hyperfeatures"


class Hyperfeatures:
    """Joins maps by a trained network.

    Args:
        network: The network; moved to the device of the first maps.
        names: The activations as results call them, in the order of the network's layers.
        grid: ``(h, w)`` of the descriptor; None takes the largest of the maps'.
    """

    def __init__(self, network: AggregationNetwork, names: Sequence[str], grid: tuple[int, int] | None = None) -> None:
        self.network = network.eval()
        self.names = list(names)
        self.grid = grid

    @classmethod
    def of(cls, recipe: Recipe, backbone: Backbone, names: Sequence[str]) -> Hyperfeatures:
        """Load the weights that a recipe names and check that they are for its layers and steps.

        Raises:
            InvalidValueError: There are none, or they are for other layers or steps (says which).
            ModelError: They cannot be had or read, or are not those the recipe was written with.
        """
        assert recipe.fuse is not None
        weights = recipe.fuse.weights
        if weights is None:
            raise InvalidValueError(
                f"Recipe {recipe.name!r} fuses by 'hyperfeatures' but names no trained weights. Train them: "
                "diffeat train hyperfeatures --recipe …, or name published ones in fuse.weights."
            )
        path = weights_file(weights.source, weights.file, weights.revision)
        if weights.sha256 is not None and file_digest(path) != weights.sha256:
            raise ModelError(
                f"{path} is not the file that recipe {recipe.name!r} was written with (its SHA-256 differs from "
                "fuse.weights.sha256). Put the right file there, or remove the sha256 to accept this one."
            )
        network = load(weights.source, weights.file, weights.revision)
        known = Catalogue.of(backbone)
        check_fits(
            network.config,
            activations=[known[n].id if n in known else n for n in names],
            channels={a.id: a.channels for a in known if a.id in network.config.activations},
            steps=recipe.trajectory.read_steps,
            count=recipe.trajectory.steps,
        )
        return cls(network, names, recipe.fuse.grid)

    def add(self, total: Tensor | None, step: int, maps: Mapping[str, Tensor]) -> Tensor:
        """The running sum with the maps ``(b, c, h, w)`` of one more step (its position among the steps)."""
        layers = [maps[name][:, None] for name in self.names]
        if self.network.mixing_weights.device != layers[0].device:
            self.network.to(layers[0].device)
        part = self.network(layers, self.grid, [step])
        return part if total is None else total + part

    def join(self, maps: Mapping[tuple[float, str], Tensor], steps: Sequence[float]) -> dict[str, Tensor]:
        """One map of one picture's maps ``(c, h, w)`` by (step, activation), or the sum if it is made already."""
        if (0.0, FUSED) in maps:
            return {FUSED: maps[0.0, FUSED]}
        total: Tensor | None = None
        for position, step in enumerate(steps):
            total = self.add(total, position, {name: maps[step, name][None] for name in self.names})
        assert total is not None
        return {FUSED: total[0]}


@torch.no_grad()
def fuse_maps(network: AggregationNetwork, layers: Sequence[Tensor], grid: tuple[int, int] | None = None) -> Tensor:
    """Descriptor ``(d, h, w)`` of one picture from its maps ``(steps, c, h, w)`` per layer."""
    device = network.mixing_weights.device
    return network([layer[None].to(device) for layer in layers], grid)[0]
