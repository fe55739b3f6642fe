"""Running out of memory: a call is repeated with half of its rows, until one alone does not fit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar

import torch
from torch import Tensor

from diffeat.errors import TooLargeError

log = logging.getLogger("diffeat")

T = TypeVar("T")
R = TypeVar("R")

_SAID = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError, TooLargeError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error).lower() for said in _SAID)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; to an accelerator it goes from locked memory, while the host goes on."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Aside:
    """Work on what an accelerator was asked for so far, on a stream of its own: what it is asked for afterwards is not
    waited for. Made where the work was asked for, entered (on any thread) where it is used. Nothing on a CPU.

    Args:
        device: Of the results.
    """

    def __init__(self, device: torch.device) -> None:
        self._asked = torch.cuda.Event() if device.type == "cuda" else None
        if self._asked is not None:
            self._asked.record(torch.cuda.current_stream(device))
        self._device = device
        self._inside = ExitStack()

    def __enter__(self) -> None:
        if self._asked is not None:
            own = vars(_streams)
            if str(self._device) not in own:
                own[str(self._device)] = torch.cuda.Stream(self._device)
            stream = own[str(self._device)]
            stream.wait_event(self._asked)
            self._inside.enter_context(torch.cuda.stream(stream))

    def __exit__(self, *_: object) -> None:
        self._inside.close()


_streams = threading.local()


class Parts:
    """Runs jobs in calls that fit the memory, and remembers how large these are.

    Args:
        rows: Jobs of one call at first.
        too_large: What to say if one job alone does not fit.
    """

    def __init__(self, rows: int, too_large: str) -> None:
        self.rows = rows
        self._too_large = too_large

    def run(self, jobs: Sequence[T], work: Callable[[Sequence[T]], R]) -> list[R]:
        """What ``work`` gives for consecutive parts of ``jobs``.

        Raises:
            TooLargeError: If a single job does not fit.
        """
        results: list[R] = []
        start = 0
        while start < len(jobs):
            part = jobs[start : start + self.rows]
            try:
                results.append(work(part))
            except Exception as error:
                if not out_of_memory(error):
                    raise
            else:
                start += len(part)
                continue
            if len(part) == 1:  # what the call had made is free by now
                raise TooLargeError(self._too_large)
            self.rows = len(part) // 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            log.warning("Out of memory with %d rows per call; going on with %d.", len(part), self.rows)
        return results
