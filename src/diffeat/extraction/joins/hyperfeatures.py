"""The join ``hyperfeatures``: a trained aggregation network over all activations and steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffeat.activations import Catalogue
from diffeat.backbones import Backbone
from diffeat.backbones.weights import check_digest
from diffeat.errors import InvalidValueError
from diffeat.extraction.joins.aggregation import AggregationNetwork
from diffeat.extraction.joins.aggregation_files import check_fits, load_aggregation, weights_file
from diffeat.extraction.reading import Fuse, Reading


class Hyperfeatures:
    """Joins maps by a trained network, which goes to the device of the first maps.

    Args:
        names: The activations as results call them, in the order of the network's layers.
        grid: ``(h, w)`` of the descriptor; None takes the largest of the maps'.
    """

    def __init__(self, network: AggregationNetwork, names: Sequence[str], grid: tuple[int, int] | None = None) -> None:
        self.network = network.eval()
        self.names = list(names)
        self.grid = grid

    @classmethod
    def of(cls, recipe: Reading, backbone: Backbone, names: Sequence[str]) -> Hyperfeatures:
        """The weights that a recipe names, loaded and checked to be for its layers and steps."""
        path, fuse = trained_file(recipe), recipe.fuse or Fuse()
        network = load_aggregation(path)
        catalogue = Catalogue.of(backbone)
        check_fits(
            network.config,
            activations=[catalogue[n].id if n in catalogue else n for n in names],
            channels={a.id: a.channels for a in catalogue if a.id in network.config.activations},
            steps=recipe.trajectory.read_steps,
            count=recipe.trajectory.steps,
        )
        return cls(network, names, fuse.grid)

    def __call__(self, views: Sequence[Sequence[Tensor]]) -> tuple[Tensor, dict[str, Any]]:
        """The descriptor ``(d, h, w)`` of one picture's maps, steps outermost."""
        (maps,) = views
        running, layers = self.running(), len(self.names)
        for position, start in enumerate(range(0, len(maps), layers)):
            step = maps[start : start + layers]
            running.add(position, {name: m[None] for name, m in zip(self.names, step, strict=True)})
        return running.total[0], {}

    def running(self) -> RunningSum:
        """The sum of one walk, to which every step's maps are added as they come."""
        return RunningSum(self)


class RunningSum:
    """Descriptors of several pictures while their steps come by.

    Attributes:
        total: ``(b, d, h, w)``.
    """

    def __init__(self, join: Hyperfeatures) -> None:
        self._join = join
        self.total = torch.zeros(())

    def add(self, position: int, tensors: Mapping[str, Tensor]) -> None:
        """The maps ``(b, c, h, w)`` of one more step, and its position among the steps."""
        layers = [tensors[name][:, None] for name in self._join.names]
        network = self._join.network
        if network.mixing_weights.device != layers[0].device:
            network.to(layers[0].device)
        part = network(layers, self._join.grid, [position])
        self.total = part if self.total.ndim == 0 else self.total + part


@torch.no_grad()
def fuse_maps(network: AggregationNetwork, layers: Sequence[Tensor], grid: tuple[int, int] | None = None) -> Tensor:
    """Descriptor ``(d, h, w)`` of one picture from its maps ``(steps, c, h, w)`` per layer."""
    device = network.mixing_weights.device
    return network([layer[None].to(device) for layer in layers], grid)[0]


def trained_file(recipe: Reading) -> Path:
    """The file of the trained weights of a recipe, fetched if need be; errors as of :meth:`Hyperfeatures.of`."""
    weights = None if recipe.fuse is None else recipe.fuse.weights
    if recipe.fuse is None or weights is None:
        raise InvalidValueError(
            f"Recipe {recipe.name!r} fuses by 'hyperfeatures' but names no trained weights. Train them: "
            "diffeat train hyperfeatures --recipe …, or name published ones in fuse.weights."
        )
    path = weights_file(weights.source, weights.file, weights.revision)
    check_digest([path], weights.sha256, f"fuse.weights.sha256 of recipe {recipe.name!r}")
    return path
