"""What every training run needs: state on disk that survives a kill, randomness by step, a loss table."""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffeat.errors import DiffeatError, InvalidValueError, did_you_mean


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def load_state(path: Path) -> dict[str, Any] | None:
    """A checkpoint, or None when there is none."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def finished_stage(run: Path, stage: str) -> dict[str, Any]:
    """The checkpoint of an earlier stage of a run.

    Raises:
        InvalidValueError: There is none.
    """
    state = load_state(run / f"{stage}.pt")
    if state is None:
        there = [path.stem for path in run.glob("*.pt") if path.stem != "vae"]
        raise InvalidValueError(
            f"{run} holds no stage {stage!r} to go on from; train that first. {did_you_mean(stage, there)}".rstrip()
        )
    return state


def run_command(main: Callable[[], None]) -> None:
    """Run a training script; what a user can mend is said in one line, with exit status 1."""
    try:
        main()
    except DiffeatError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("\nStopped. The same command with --resume goes on from the last checkpoint.")


def at_step(seed: int, step: int, stage: str) -> torch.Generator:
    """The randomness of one step, a function of (seed, stage, step), so that resuming needs no generator state."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{stage}/{step}".encode()))


def autocast(device: str) -> torch.autocast:
    """bfloat16 where that is fast."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, cache_enabled=False)


class Log:
    """A CSV of numbers by step; rows at or after a resumed step are dropped first."""

    def __init__(self, path: Path, columns: tuple[str, ...], start: int) -> None:
        self.path, self.rows, self.values = path, [], []
        kept = path.read_text().splitlines()[1:] if path.exists() else []
        kept = [row for row in kept if int(row.split(",")[0]) < start]
        path.write_text("\n".join([",".join(columns), *kept]) + "\n")
        before = float(kept[-1].rsplit(",", 1)[1]) if kept else 0.0
        self.since = time.monotonic() - before

    def add(self, step: int, *numbers: float) -> None:
        self.values.append(numbers[0])
        seconds = time.monotonic() - self.since
        self.rows.append(",".join([str(step), *(f"{n:.5f}" for n in numbers), f"{seconds:.1f}"]))

    def recent(self, count: int = 50) -> float:
        """The mean of the first number over the last steps."""
        last = self.values[-count:]
        return sum(last) / max(len(last), 1)

    def flush(self) -> None:
        with open(self.path, "a") as file:
            file.writelines(row + "\n" for row in self.rows)
        self.rows = []


@contextmanager
def threads(count: int) -> Iterator[ThreadPool]:
    """Worker threads that have ended when the block ends: torch can abort Python's exit over those that have not."""
    pool = ThreadPool(count)
    try:
        yield pool
    finally:
        pool.close()
        pool.join()


def gradients(
    pool: ThreadPool, loss_of: Callable[..., Tensor], batch: tuple[Tensor, ...], weights: list[Tensor]
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
