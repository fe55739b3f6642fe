"""Torch as it comes: what a process has set must not change features.

Autocast, inference mode and a default device belong to a thread and are set aside in that thread alone. The default
dtype belongs to the process: where it is not float32, it is float32 for all threads while a call of diffeat lasts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_AUTOCASTS = ("cpu", "cuda", "mps", "xpu")


class _Float32:
    """Float32 as the default dtype for as long as anybody is inside."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._inside = 0
        self._theirs = torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._theirs = torch.get_default_dtype()
                _set_default(self._theirs, torch.float32)
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                _set_default(torch.float32, self._theirs)


def _set_default(before: torch.dtype, dtype: torch.dtype) -> None:
    if dtype != before:
        torch.set_default_dtype(dtype)


_FLOAT32 = _Float32()


@contextmanager
def neutral() -> Iterator[None]:
    """Set aside what the process has set. Never held while somebody else's code runs between two results.

    The grad mode stays as it is, except that nothing has a graph where there was inference mode.
    """
    with ExitStack() as stack:
        stack.enter_context(_FLOAT32)
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        for device in _AUTOCASTS:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Random numbers of the CPU, and of a device, begin at a seed; afterwards they go on as if none had been drawn."""
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would set those of all devices, for good
        for one in cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield
