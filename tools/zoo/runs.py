"""What the trainings here share: their folders, randomness by step, threads, averaged weights."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffeat.errors import DiffeatError, InvalidValueError, did_you_mean
from diffeat.progress import Progress, silent
from diffeat.training.checkpoint import Tensors, load
from diffeat.training.loop import STATE


@dataclass(frozen=True)
class Work:
    """Where a stage is trained, and to whom it speaks."""

    device: str
    pool: ThreadPool
    say: Callable[[str], None]
    progress: Progress = silent


def claim(run: Path, stage: str, settings: Any) -> None:
    """Write a stage's settings into its run's folder, or make sure that they are those of the run that is there.

    Raises:
        InvalidValueError: ``run`` holds a stage of other settings.
    """
    run.mkdir(parents=True, exist_ok=True)
    file, asked = run / f"{stage}.json", json.loads(json.dumps(asdict(settings)))
    if not file.exists():
        file.write_text(json.dumps(asked, indent=2))
        return
    there = json.loads(file.read_text())
    if there != asked:
        changed = ", ".join(k for k in asked if there.get(k) != asked[k])
        raise InvalidValueError(f"{run} holds a run with other settings ({changed}); give another --out.")


def finished_stage(run: Path, stage: str) -> dict[str, Tensor]:
    """The tensors of an earlier stage's last checkpoint.

    Raises:
        InvalidValueError: There is none.
    """
    file = run / f"{stage}-{STATE}"
    if not file.exists():
        there = [path.name.removesuffix(f"-{STATE}") for path in run.glob(f"*-{STATE}")]
        nearest = did_you_mean(stage, [name for name in there if name != "vae"])
        raise InvalidValueError(f"{run} holds no stage {stage!r} to go on from; train that first. {nearest}".rstrip())
    return load(file)[0]


def run_command(main: Callable[[], None]) -> None:
    """Run a training script; what a user can mend is said in one line, with exit status 1."""
    try:
        main()
    except DiffeatError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command goes on from here.")


def at_step(seed: int, step: int, stage: str) -> torch.Generator:
    """The randomness of one step, a function of (seed, stage, step), so that resuming needs no generator state."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{stage}/{step}".encode()))


def autocast(device: str) -> torch.autocast:
    """bfloat16 where that is fast."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, cache_enabled=False)


@contextmanager
def threads(count: int) -> Iterator[ThreadPool]:
    """Worker threads that have ended when the block ends: torch can abort Python's exit over those that have not."""
    pool = ThreadPool(count)
    try:
        yield pool
    finally:
        pool.close()
        pool.join()


def shared_gradients(
    pool: ThreadPool, loss_of: Callable[..., Tensor], batch: tuple[Tensor, ...], weights: Sequence[Tensor]
) -> float:
    """Fill ``weights``' gradients with those of the mean loss over a batch, a slice of it on each thread of ``pool``.

    On a CPU shared with others, threads that meet once a step lose far less time than threads that meet in every
    operation. Returns the loss.
    """
    slices = list(zip(*(part.chunk(pool._processes) for part in batch), strict=True))  # type: ignore[attr-defined]
    total = len(batch[0])

    def one(piece: tuple[Tensor, ...]) -> tuple[float, tuple[Tensor | None, ...]]:
        share = len(piece[0]) / total
        loss = loss_of(*piece) * share
        return float(loss.detach()), torch.autograd.grad(loss, weights, allow_unused=True)

    results = pool.map(one, slices, chunksize=1)
    for k, weight in enumerate(weights):
        parts = [g[k] for _, g in results if g[k] is not None]
        weight.grad = sum(parts[1:], parts[0]) if parts else None  # type: ignore[arg-type]
    return sum(loss for loss, _ in results)


class MovingAverage(Tensors):
    """The moving average of weights, over ever more steps, a thousand at last."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.weights = weights
        self.values = {name: value.detach().float().clone() for name, value in weights.items()}
        super().__init__(self.values)

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Take in the weights after the step of this number, from 0."""
        keep = min(0.999, (number + 1) / (number + 12))
        torch._foreach_lerp_(list(self.values.values()), [w.detach() for w in self.weights.values()], 1 - keep)
