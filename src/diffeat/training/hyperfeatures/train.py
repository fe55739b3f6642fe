"""Training of an aggregation network on pairs of pictures with common points.

The paper's training: AdamW at 1e-3 without decay, one pair per step, 5,000 steps. Beyond the paper, each off by
default: mirrored pairs, the dense and the window position loss (:mod:`diffeat.training.hyperfeatures.loss`), several
pairs per step. A run that was stopped goes on with the same command and ends in the same weights.
"""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError, NonFiniteError, StoreError
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.progress import Progress, silent
from diffeat.storage.atomic import StagedFile, disk_errors
from diffeat.tasks.correspondence.lattice import Convention
from diffeat.training.hyperfeatures.examples import Example, Examples, points_in_cells
from diffeat.training.hyperfeatures.logs import TrainingLog
from diffeat.training.hyperfeatures.loss import keypoint_loss, nearest_cells, position_loss

WEIGHTS = "weights"
STATE = "state.pt"
LOG = "log.csv"

#: Gives PCK of a network in percent.
Validate = Callable[[AggregationNetwork], float]


@dataclass(frozen=True)
class TrainSettings:
    """How a network is trained. The defaults are the paper's.

    Attributes:
        steps: Of the optimiser.
        lr: Learning rate.
        weight_decay: Of AdamW.
        pairs: Pairs per step.
        seed: Of the first weights, the order of the pairs and the mirroring.
        flip: Share of pairs in which both pictures are mirrored.
        dense: Weight of the position loss over the whole picture.
        window: Weight of the position loss in a window around the best cell.
        radius: Of that window, in cells.
        validate_every: Steps between validations; the state is saved as often.
        grid: ``(h, w)`` of the descriptor; None takes the largest of the maps'.
        convention: How points become cells; ``"index"`` repeats the reference.
    """

    steps: int = 5000
    lr: float = 1e-3
    weight_decay: float = 0.0
    pairs: int = 1
    seed: int = 0
    flip: float = 0.0
    dense: float = 0.0
    window: float = 0.0
    radius: int = 7
    validate_every: int = 1000
    grid: tuple[int, int] | None = None
    convention: Convention = "half-pixel"

    def __post_init__(self) -> None:
        for name in ("steps", "pairs", "validate_every", "radius"):
            if getattr(self, name) < 1:
                raise InvalidValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 <= self.flip <= 1:
            raise InvalidValueError(f"flip is a share from 0 to 1, got {self.flip}.")
        for name in ("dense", "window", "weight_decay"):
            if getattr(self, name) < 0:
                raise InvalidValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        if not self.lr > 0:
            raise InvalidValueError(f"The learning rate must be positive, got {self.lr}.")


@dataclass(frozen=True)
class Trained:
    """The outcome of a training.

    Attributes:
        network: The best network by validation; the last where there was none.
        folder: Its weights (:meth:`AggregationNetwork.from_pretrained`).
        step: When it was best.
        validation: Its PCK, if validated.
        seconds: Of this run, per step, without validation.
    """

    network: AggregationNetwork = field(repr=False)
    folder: Path
    step: int
    validation: float | None
    seconds: float


def new_network(config: AggregationConfig, seed: int) -> AggregationNetwork:
    """A network with first weights of a seed, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AggregationNetwork(config)


def pair_loss(
    network: AggregationNetwork, example: Example, settings: TrainSettings
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one pair, and its parts by name."""
    source, target = _descriptors(network, example, settings.grid)
    points = []
    for values, maps, described in zip(example.points, example.maps, (source, target), strict=True):
        cells = points_in_cells(values, maps.frame, _grid(described), settings.convention)
        points.append(cells.to(source.device))
    cells = [nearest_cells(p, _grid(d)) for p, d in zip(points, (source, target), strict=True)]
    parts = {"keypoint": keypoint_loss(source, target, cells[0], cells[1])}
    total = parts["keypoint"]
    for name, weight, radius in (("dense", settings.dense, None), ("window", settings.window, settings.radius)):
        if weight:
            parts[name] = position_loss(source, target, points[0], points[1], radius=radius)
            total = total + weight * parts[name]
    return total, parts


class HeadTrainer:
    """Trains a network, or goes on where an earlier run of the same settings stopped.

    Args:
        network: The network, on the device to train on.
        examples: What to learn from.
        settings: How.
        folder: Where weights, state and log go.
        validate: Measures a network; without it the last weights are taken.
        tensorboard: Also write TensorBoard events.

    Raises:
        InvalidValueError: The folder holds a training of other settings (says which).
        StoreError: The state of the earlier run cannot be read.
    """

    def __init__(
        self,
        network: AggregationNetwork,
        examples: Examples,
        settings: TrainSettings,
        folder: Path,
        *,
        validate: Validate | None = None,
        tensorboard: bool = False,
    ) -> None:
        self.network, self.examples, self.settings, self.folder = network, examples, settings, folder
        self._validate = validate
        self._optimiser = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
        self.step = 0
        self._best: tuple[int, float] | None = None
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE).is_file():
            self._resume()
        self._log = TrainingLog(folder / LOG, self.step, folder / "tensorboard" if tensorboard else None)

    def run(self, progress: Progress = silent, on_validation: Callable[[int, float], None] | None = None) -> Trained:
        """Train to the end.

        Raises:
            NonFiniteError: The loss is NaN or infinite; the state before is on disk.
            StoreError: The folder cannot be written.
        """
        spent, done = 0.0, 0
        self.network.train()
        try:
            for step in progress(range(self.step + 1, self.settings.steps + 1), total=None, desc="train"):
                start = time.perf_counter()
                pair, values = self._one(step)
                spent, done = spent + time.perf_counter() - start, done + 1
                self.step = step
                found = None
                if step % self.settings.validate_every == 0 or step == self.settings.steps:
                    found = self._checkpoint()
                    if found is not None and on_validation is not None:
                        on_validation(step, found)
                self._log.write(step, pair, {**values, "seconds": time.perf_counter() - start}, found)
        except KeyboardInterrupt:
            self._save_state()
            raise
        finally:
            self._log.close()
        best = AggregationNetwork.from_pretrained(self.folder / WEIGHTS)
        step, value = self._best if self._best is not None else (self.step, None)
        return Trained(best, self.folder / WEIGHTS, step, value, spent / max(1, done))

    def _one(self, step: int) -> tuple[str, dict[str, float]]:
        """One step of the optimiser; the loss and its parts."""
        self._optimiser.zero_grad(set_to_none=True)
        count = self.settings.pairs
        sums: dict[str, float] = {"loss": 0.0}
        names = []
        for number in range((step - 1) * count, step * count):
            example = self.examples[number]
            loss, parts = pair_loss(self.network, example, self.settings)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteError(self._why_not_finite(step, example, value))
            (loss / count).backward()
            for name, part in {"loss": loss, **parts}.items():
                sums[name] = sums.get(name, 0.0) + float(part.detach()) / count
            names.append(example.name)
        self._optimiser.step()
        return " ".join(names), sums

    def _why_not_finite(self, step: int, example: Example, value: float) -> str:
        bad = [m for maps in example.maps for m in maps.layers if not torch.isfinite(m).all()]
        cause = (
            "its features hold NaN or infinity: extract them in float32 or bfloat16"
            if bad
            else f"the training diverged: use a learning rate below {self.settings.lr:g}, or more pairs per step"
        )
        last = f"The weights of step {self._best[0]} stay in {self.folder / WEIGHTS}." if self._best else ""
        return f"The loss became {value} at step {step} (pair {example.name}); {cause}. {last}".rstrip()

    def _checkpoint(self) -> float | None:
        found = self._validate(self.network) if self._validate is not None else None
        self.network.train()
        if found is None or self._best is None or found > self._best[1]:
            self._best = None if found is None else (self.step, found)
            self.network.save_pretrained(self.folder / WEIGHTS)
        self._save_state()
        return found

    def _identity(self) -> dict[str, Any]:
        """What must be the same to go on; the number of steps may grow."""
        settings = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.settings).items() if k != "steps"}
        return {**settings, "training pairs": len(self.examples.pairs), "network": self.network.config.to_dict()}

    def _save_state(self) -> None:
        buffer = io.BytesIO()
        state = {
            "identity": self._identity(),
            "step": self.step,
            "best": self._best,
            "network": self.network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        torch.save(state, buffer)
        with disk_errors(self.folder):
            StagedFile(self.folder / STATE, buffer.getvalue()).commit()

    def _resume(self) -> None:
        path = self.folder / STATE
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            identity = state["identity"]
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError, TypeError) as error:
            raise StoreError(
                f"The state {path} of an earlier run cannot be read ({error}). Remove it to start anew."
            ) from None
        own = self._identity()
        wrong = [f"{k} ({identity.get(k)!r} there, {own.get(k)!r} now)" for k in own if identity.get(k) != own[k]]
        if wrong:
            raise InvalidValueError(
                f"{self.folder} holds a training of other settings: {', '.join(wrong)}. Give the same settings to go "
                "on with it, or another --out folder."
            )
        self.network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        self._best = tuple(state["best"]) if state["best"] is not None else None


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
