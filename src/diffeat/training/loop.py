"""The training loop: optimiser steps over a stream of examples, on disk as it goes.

What a step learns from is a function of its number, or of a state that is kept beside the weights. A run that was
stopped, by Ctrl-C or by a kill, therefore goes on with the same command and ends in the same weights. Ctrl-C and
SIGTERM wait for the step to end and keep it; a second one does not.
"""

from __future__ import annotations

import csv
import io
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError, NonFiniteError
from diffeat.progress import Progress, silent
from diffeat.storage.atomic import StagedFile, disk_errors
from diffeat.training import checkpoint
from diffeat.training.checkpoint import Momenta, Stateful

STATE, LOG = "state.safetensors", "log.csv"

#: What a step tells: ``loss`` and further columns of the log.
Values = Mapping[str, float | str]


@dataclass(frozen=True)
class Schedule:
    """How long a training is, and how steps are made.

    Attributes:
        steps: Of the optimisers, together.
        every: Steps between checkpoints; the last step makes one too.
        share: What the optimisers' rates are multiplied by, by the number of the step from 0.
        clip: The longest gradient, over all weights; unlimited if not given.
        seconds: Stop after so long, with a checkpoint.

    Raises:
        InvalidValueError: No step is made, or none between checkpoints.
    """

    steps: int
    every: int
    share: Callable[[int], float] | None = None
    clip: float | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if min(self.steps, self.every) < 1:
            raise InvalidValueError(
                f"A training makes a step or more, and keeps it after one or more; not {self.steps} and {self.every}."
            )


class Log:
    """A row (CSV) for every step, none lost and none twice when a run is stopped and goes on; on disk at :meth:`flush`,
    all or as they were. Rows after ``step`` of an earlier run are dropped; the first column is ``step``."""

    def __init__(self, file: Path, columns: Sequence[str], step: int) -> None:
        self._file, self._text = file, io.StringIO(newline="")
        self._table = csv.DictWriter(self._text, columns, extrasaction="ignore")
        self._table.writeheader()
        self._table.writerows(row for row in (read_log(file) if file.is_file() else ()) if int(row["step"]) <= step)
        self.flush()

    def write(self, values: Mapping[str, float | str | None]) -> None:
        """One step; a column without a value stays empty."""
        self._table.writerow(
            {k: f"{v:.7g}" if isinstance(v, float) else str(v) for k, v in values.items() if v is not None}
        )

    def flush(self) -> None:
        StagedFile(self._file, self._text.getvalue().encode()).commit()


def read_log(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


class Loop:
    """A training, new or gone on with.

    Args:
        folder: Gets ``state.safetensors`` and ``log.csv``; None keeps nothing.
        optimisers: By name; all step together.
        parts: What else belongs to the state, by name: networks, averages, random streams.
        identity: What must be the same to go on, as plain values; the number of steps may grow if it is not in it.
        columns: Of the log, beside step, seconds and validation.
        prefix: Of the names of both files, for several trainings in one folder.
        writes: Whether this process writes; of several on one training, the others only read the state.

    Attributes:
        best: Step and value of the best validation.
        seconds: Per step of this run, without checkpoints.

    Raises:
        InvalidValueError: The folder holds a training of another identity (says how).
        StoreError: The state of the earlier run cannot be read, or the folder not be written.
    """

    def __init__(
        self,
        folder: Path | None,
        schedule: Schedule,
        optimisers: Mapping[str, torch.optim.Optimizer],
        parts: Mapping[str, Stateful],
        identity: Mapping[str, object] | None = None,
        columns: Sequence[str] = ("loss",),
        prefix: str = "",
        writes: bool = True,
    ) -> None:
        self.schedule, self._optimisers = schedule, optimisers
        self._parts = {**parts, **{key: Momenta(optimiser) for key, optimiser in optimisers.items()}}
        self._identity: dict[str, object] = json.loads(json.dumps(identity or {}))
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self.best: tuple[int, float] | None = None
        self._file, self._log = None, None
        if folder is not None:
            with disk_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
            self._file = folder / f"{prefix}{STATE}"
            if self._file.is_file():
                self._resume(self._file)
            if writes:
                self._log = Log(folder / f"{prefix}{LOG}", ("step", *columns, "seconds", "validation"), self.step)

    def run(
        self,
        gradients: Callable[[int], Values],
        *,
        keep: Callable[[], object] = lambda: None,
        validate: Callable[[], float] | None = None,
        on_validation: Callable[[int, float], None] | None = None,
        progress: Progress = silent,
        desc: str = "train",
    ) -> None:
        """Train to the end.

        Args:
            gradients: Given the number of a step, from 0, adds the gradients of its loss to the weights and tells
                ``loss`` and whatever else is logged.
            keep: Puts the weights where they are used from. Called at a checkpoint that is the best so far, or at
                every one if nothing is validated.
            validate: Measures the weights at a checkpoint; more is better.
            on_validation: Told every step and value.

        Raises:
            NonFiniteError: The loss is NaN or infinite; the last checkpoint stays.
            StoreError: The folder cannot be written.
        """
        plan, start, spent = self.schedule, time.monotonic(), 0.0
        numbers = range(self.step, plan.steps)
        with _interrupts() as stopped:
            for done, number in enumerate(progress(numbers, total=len(numbers), desc=desc), 1):
                began, value = time.perf_counter(), None
                values = self._one(number, gradients)
                took = time.perf_counter() - began
                spent, self.step = spent + took, number + 1
                self.seconds = spent / done
                late = plan.seconds is not None and time.monotonic() - start > plan.seconds
                milestone = self.step % plan.every == 0 or self.step == plan.steps or late
                if milestone:
                    value = None if validate is None else validate()
                    if value is None or self.best is None or value > self.best[1]:
                        self.best = None if value is None else (self.step, value)
                        keep()
                    if value is not None and on_validation is not None:
                        on_validation(self.step, value)
                if self._log is not None:
                    self._log.write({"step": str(self.step), **values, "seconds": took, "validation": value})
                if milestone or stopped():
                    self._save()
                if stopped():
                    raise KeyboardInterrupt
                if late:
                    break

    def _one(self, number: int, gradients: Callable[[int], Values]) -> Values:
        for optimiser in self._optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        values = gradients(number)
        loss = float(values["loss"])
        if not math.isfinite(loss):
            raise NonFiniteError(f"The loss became {loss} at step {number + 1}: the training diverged. Lower the rate.")
        groups = [group for optimiser in self._optimisers.values() for group in optimiser.param_groups]
        if self.schedule.clip is not None:
            torch.nn.utils.clip_grad_norm_([w for group in groups for w in group["params"]], self.schedule.clip)
        if self.schedule.share is not None:
            for group in groups:
                group["lr"] = group.setdefault("first_lr", group["lr"]) * self.schedule.share(number)
        for optimiser in self._optimisers.values():
            optimiser.step()
        self.losses.append(loss)
        return values

    def _save(self) -> None:
        if self._file is None or self._log is None:
            return
        tensors: dict[str, Tensor] = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for part, holder in self._parts.items():
            tensors |= {f"{part}/{name}": value for name, value in holder.state_dict().items()}
        with disk_errors(self._file.parent):
            self._log.flush()
        checkpoint.save(self._file, tensors, {"identity": self._identity, "step": self.step, "best": self.best})

    def _resume(self, file: Path) -> None:
        tensors, facts = checkpoint.load(file)
        there, now = facts["identity"], self._identity
        wrong = [f"{k} ({there.get(k)!r} there, {now.get(k)!r} now)" for k in now if there.get(k) != now[k]]
        if wrong:
            raise InvalidValueError(
                f"{file.parent} holds a training of other settings: {', '.join(wrong)}. Give the same settings to go "
                "on with it, or another folder."
            )
        for part, holder in self._parts.items():
            holder.load_state_dict(checkpoint.within(tensors, part))
        self.step, self.losses = facts["step"], tensors["losses"].tolist()
        self.best = None if facts["best"] is None else (facts["best"][0], facts["best"][1])


@contextmanager
def _interrupts() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed or the end asked for; the second one ends at once, as any outside the main thread."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: object) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
