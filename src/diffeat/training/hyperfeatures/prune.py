"""Cheaper networks out of a trained one, by its own mixing weights.

What is kept keeps its weights; the softmax over the rest renormalises by itself. Layers and steps of which nothing is
left are dropped from the network and from the recipe, so that the denoiser stops earlier.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diffeat.activations import Catalogue
from diffeat.datasets.pairs import PairDataset
from diffeat.errors import InvalidValueError
from diffeat.extraction import Reading
from diffeat.extraction.joins.aggregation import AggregationNetwork
from diffeat.progress import Progress, silent
from diffeat.refinement.maps import largest_grid
from diffeat.tasks.correspondence.keypoints import PckResult
from diffeat.tasks.correspondence.protocol import Protocol
from diffeat.training.hyperfeatures.maps import MapSource, PictureMaps
from diffeat.training.hyperfeatures.recipes import denoiser_calls, recipe_of
from diffeat.training.hyperfeatures.score import score_network

#: Positions (step, layer) in a network.
Place = tuple[int, int]


@dataclass(frozen=True)
class Pruned:
    """A cheaper network: the pairs kept, as positions in the one it came from, and their share of the weights."""

    label: str
    network: AggregationNetwork
    kept: tuple[Place, ...]
    share: float


@dataclass(frozen=True)
class CurvePoint:
    """Accuracy and cost of a pruned network: denoiser passes per picture, and bottlenecks run."""

    pruned: Pruned
    result: PckResult
    calls: float


def ranked(network: AggregationNetwork) -> list[Place]:
    """All pairs in use, the strongest first."""
    shares, layers = network.shares.detach().cpu().flatten(), len(network.config.channels)
    order = shares.argsort(descending=True, stable=True).tolist()
    used = network.used.flatten()
    return [divmod(i, layers) for i in order if used[i]]


def keep_strongest(network: AggregationNetwork, count: int) -> Pruned:
    """Keep the ``count`` pairs of step and layer with the largest mixing weights."""
    places = ranked(network)
    if not 1 <= count <= len(places):
        raise InvalidValueError(f"The network mixes {len(places)} pairs of step and layer; keep 1 to that many.")
    label = "the strongest pair" if count == 1 else f"the {count} strongest pairs"
    return keep(network, places[:count], "all pairs" if count == len(places) else label)


def keep_step(network: AggregationNetwork, step: int | None = None) -> Pruned:
    """Keep one step with all its layers: the given position, or the step that weighs most."""
    chosen = int(network.shares.detach().sum(1).argmax()) if step is None else step
    places = [p for p in ranked(network) if p[0] == chosen]
    return keep(network, places, f"step {network.config.steps[chosen]:g} alone")


def keep_layer(network: AggregationNetwork, layer: int | None = None) -> Pruned:
    """Keep one layer at all steps: the given position, or the layer that weighs most."""
    chosen = int(network.shares.detach().sum(0).argmax()) if layer is None else layer
    places = [p for p in ranked(network) if p[1] == chosen]
    return keep(network, places, f"layer {network.config.activations[chosen]} alone")


def keep(network: AggregationNetwork, places: Collection[Place], label: str) -> Pruned:
    config = network.config
    count = (len(config.steps), len(config.channels))
    if not places or not all(0 <= s < count[0] and 0 <= k < count[1] for s, k in places):
        raise InvalidValueError(
            f"Pairs to keep are positions (step, layer) below {count}, at least one; got {sorted(places)}."
        )
    steps, layers = sorted({s for s, _ in places}), sorted({k for _, k in places})
    smaller = AggregationNetwork(
        replace(
            config,
            steps=tuple(config.steps[s] for s in steps),
            activations=tuple(config.activations[k] for k in layers),
            channels=tuple(config.channels[k] for k in layers),
        )
    )
    with torch.no_grad():
        old = network.mixing_weights.unflatten(0, count)
        new = smaller.mixing_weights.unflatten(0, (len(steps), len(layers))).fill_(-torch.inf)
        for s, k in places:
            new[steps.index(s), layers.index(k)] = old[s, k]
        for position, k in enumerate(layers):
            smaller.bottleneck_layers[position].load_state_dict(network.bottleneck_layers[k].state_dict())
        share = float(sum(network.shares[s, k] for s, k in places))
    return Pruned(label, smaller.to(network.mixing_weights.device).eval(), tuple(sorted(places)), share)


def curve(
    network: AggregationNetwork,
    recipe: Reading,
    known: Catalogue,
    pairs: PairDataset,
    source: MapSource,
    protocol: Protocol,
    progress: Progress = silent,
) -> list[CurvePoint]:
    """Accuracy against cost of the network and of what is left of it.

    Args:
        known: Of the model; tells how far into a pass each layer lies.

    Returns:
        The strongest pairs by count (1, 2, 4, … and all), then the strongest step and the strongest layer.
    """
    most = len(ranked(network))
    counts = sorted({*(2**i for i in range(most.bit_length())), most})
    variants = [keep_strongest(network, k) for k in counts] + [keep_step(network), keep_layer(network)]
    points = []
    for pruned in progress(variants, total=len(variants), desc="prune"):
        some = Selected(source, network, pruned.network)
        result = score_network(pairs, pruned.network, some, protocol)
        points.append(CurvePoint(pruned, result, denoiser_calls(recipe_of(recipe, pruned.network.config), known)))
    return points


class Selected:
    """The maps that a pruned network takes, out of the whole network's, and the grid that the whole one would use."""

    def __init__(self, source: MapSource, whole: AggregationNetwork, part: AggregationNetwork) -> None:
        self._source = source
        self._layers = [whole.config.activations.index(a) for a in part.config.activations]
        self._steps = [whole.config.steps.index(s) for s in part.config.steps]

    def maps(self, path: Path) -> PictureMaps:
        found = self._source.maps(path)
        grid = found.grid or largest_grid(found.layers)
        return PictureMaps(tuple(found.layers[k][self._steps] for k in self._layers), found.frame, grid)
