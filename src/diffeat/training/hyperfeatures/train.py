"""Training of an aggregation network on pairs of pictures with common points.

The paper's training: AdamW at 1e-3 without decay, one pair per step, 5,000 steps. Beyond the paper, each off by
default: mirrored pairs, the dense position loss (:mod:`diffeat.training.hyperfeatures.loss`), several pairs per step. A
loss of one's own may take the place of the paper's (:data:`PairLoss`). A
run that was stopped goes on with the same command and ends in the same weights (:mod:`diffeat.training.loop`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from diffeat.ambient import seeded
from diffeat.errors import InvalidValueError, NonFiniteError
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.extraction.joins.aggregation_files import load_aggregation, save_aggregation
from diffeat.progress import Progress, silent
from diffeat.tasks.correspondence.keypoints import PckResult
from diffeat.tasks.correspondence.lattice import Convention
from diffeat.training.hyperfeatures.examples import Example, Examples, points_in_cells
from diffeat.training.hyperfeatures.loss import keypoint_loss, nearest_cells, position_loss
from diffeat.training.loop import Loop, Schedule

WEIGHTS = "weights"

#: Gives PCK of a network.
Validate = Callable[[AggregationNetwork], PckResult]


@dataclass(frozen=True)
class DescribedPair:
    """A pair of pictures with the descriptors that a network gives it now.

    Attributes:
        source: ``(d, h, w)``, attached to the network's weights.
        target: Likewise; its grid may differ.
        points: Common points (n, 2) in cells (x, y) of source and target; n may be 0 where a loss needs none.
        example: Name, maps and points in original pixels.
    """

    source: Tensor = field(repr=False)
    target: Tensor = field(repr=False)
    points: tuple[Tensor, Tensor] = field(repr=False)
    example: Example


#: A loss of one's own: a number to be made small, of a described pair.
PairLoss = Callable[[DescribedPair], Tensor]


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained. The defaults are the paper's.

    Attributes:
        seed: Of the first weights, the order of the pairs and the mirroring.
        flip: Share of pairs in which both pictures are mirrored.
        dense: Weight of the position loss.
        validate_every: Steps between validations; the state is saved as often.
        grid: ``(h, w)`` of the descriptor; None takes the largest of the maps'.
        projection: Channels of the descriptor.
        bottleneck: Channels inside the bottlenecks; a quarter of ``projection`` if not given.
        convention: How points become cells; ``"index"`` repeats the reference.
    """

    steps: int = 5000
    lr: float = 1e-3
    weight_decay: float = 0.0
    pairs: int = 1
    seed: int = 0
    flip: float = 0.0
    dense: float = 0.0
    validate_every: int = 1000
    grid: tuple[int, int] | None = None
    projection: int = 384
    bottleneck: int | None = None
    convention: Convention = "half-pixel"

    def __post_init__(self) -> None:
        for name in ("steps", "pairs", "validate_every"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.flip <= 1:
            raise InvalidValueError(f"flip is a share from 0 to 1, got {self.flip}.")
        for name in ("dense", "weight_decay"):
            if getattr(self, name) < 0:
                raise InvalidValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not self.lr > 0:
            raise InvalidValueError(f"The learning rate must be positive, got {self.lr}.")


@dataclass(frozen=True)
class Trained:
    """The outcome of a training.

    Attributes:
        network: The best network by validation; the last where there was none.
        folder: Its weights (:func:`~diffeat.extraction.joins.aggregation_files.load_aggregation`).
        seconds: Of this run, per step, without validation.
    """

    network: AggregationNetwork = field(repr=False)
    folder: Path
    step: int
    validation: PckResult | None
    seconds: float


def new_network(config: AggregationConfig, seed: int) -> AggregationNetwork:
    """A network with first weights of a seed, whatever was drawn before."""
    with seeded(seed):
        return AggregationNetwork(config)


def pair_loss(
    network: AggregationNetwork, example: Example, settings: TrainSettings, own: PairLoss | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one pair, and its parts by name; by a loss of one's own if one is given."""
    source, target = _descriptors(network, example, settings.grid)
    points = []
    for values, maps, described in zip(example.points, example.maps, (source, target), strict=True):
        cells = points_in_cells(values, maps.frame, _grid(described), settings.convention)
        points.append(cells.to(source.device))
    if own is not None:
        return own(DescribedPair(source, target, (points[0], points[1]), example)), {}
    cells = [nearest_cells(p, _grid(d)) for p, d in zip(points, (source, target), strict=True)]
    parts = {"keypoint": keypoint_loss(source, target, cells[0], cells[1])}
    if not settings.dense:
        return parts["keypoint"], parts
    parts["dense"] = position_loss(source, target, points[0], points[1])
    return parts["keypoint"] + settings.dense * parts["dense"], parts


def train_network(
    network: AggregationNetwork,
    examples: Examples,
    settings: TrainSettings,
    folder: Path,
    validate: Validate | None = None,
    progress: Progress = silent,
    on_validation: Callable[[int, PckResult], None] | None = None,
    own: PairLoss | None = None,
) -> Trained:
    """Train a network, or go on where an earlier run of the same settings stopped.

    Args:
        network: On the device to train on.
        validate: Measures a network; without it the last weights are taken.
        own: In place of the paper's loss; its module and name must stay the same for a training to be gone on with.
    """
    weights, count = folder / WEIGHTS, settings.pairs
    how = {name: value for name, value in asdict(settings).items() if name != "steps"}
    if own is not None:
        how["loss"] = f"{own.__module__}.{getattr(own, '__qualname__', type(own).__qualname__)}"
    loop = Loop(
        folder,
        Schedule(settings.steps, settings.validate_every),
        {"optimiser": torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)},
        {"network": network},
        {**how, "training pairs": len(examples.pairs), "network": network.config.to_dict()},
        ("pair", "loss", "keypoint", "dense"),
    )

    def gradients(number: int) -> dict[str, float | str]:
        sums: dict[str, float] = {}
        names = []
        for example in (examples[k] for k in range(number * count, (number + 1) * count)):
            loss, parts = pair_loss(network, example, settings, own)
            if not torch.isfinite(loss):
                cause = f"the training diverged: use a learning rate below {settings.lr:g}, or more pairs per step"
                if any(not torch.isfinite(layer).all() for maps in example.maps for layer in maps.layers):
                    cause = "its features hold NaN or infinity: extract them in float32 or bfloat16"
                last = f" The weights of step {loop.best[0]} stay in {weights}." if loop.best else ""
                raise NonFiniteError(
                    f"The loss became {float(loss.detach())} at step {number + 1} (pair {example.name}); {cause}.{last}"
                )
            (loss / count).backward()
            for name, part in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0.0) + float(part.detach()) / count
            names.append(example.name)
        return {"pair": " ".join(names), **sums}

    results: dict[int, PckResult] = {}

    def measured(validate: Validate) -> float:
        results[loop.step] = validate(network)
        return results[loop.step].value

    network.train()
    loop.run(
        gradients,
        keep=lambda: save_aggregation(network, weights),
        validate=None if validate is None else lambda: measured(validate),
        on_validation=None if on_validation is None else lambda step, _: on_validation(step, results[step]),
        progress=progress,
    )
    step, best = loop.best[0] if loop.best else loop.step, load_aggregation(weights)
    result = results.get(step)
    if result is None and validate is not None:  # an earlier run measured it
        result = validate(best.to(network.mixing_weights.device))
    return Trained(best, weights, step, result, loop.seconds)


def _descriptors(network: AggregationNetwork, example: Example, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    device = network.mixing_weights.device
    one, other = ([layer.to(device) for layer in maps.layers] for maps in example.maps)
    if all(a.shape == b.shape for a, b in zip(one, other, strict=True)):
        both = network([torch.stack(pair) for pair in zip(one, other, strict=True)], grid)
        return both[0], both[1]
    first, second = (network([layer[None] for layer in layers], grid)[0] for layers in (one, other))
    return first, second


def _grid(described: Tensor) -> tuple[int, int]:
    return described.shape[-2], described.shape[-1]
