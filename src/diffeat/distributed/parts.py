"""Work that is no extraction, in parts whose results add up, by processes of this machine: :func:`gate_in_parts`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial, reduce
from typing import TypeVar

import torch

from diffeat.distributed.local import CONTEXT
from diffeat.distributed.workers import devices_of, threads_of
from diffeat.errors import ModelError
from diffeat.extraction import Reading
from diffeat.extraction.extractor import load_backbone
from diffeat.features import ImageLike
from diffeat.progress import Progress, silent
from diffeat.studies.content_shift.gating import GateResult, gate
from diffeat.studies.content_shift.meter import GateSettings
from diffeat.techniques.combination import Combinable

R = TypeVar("R")


def in_parts(parts: Sequence[Callable[[], R]], progress: Progress = silent) -> list[R]:
    """What each part gives, in their order; each runs in a process of its own, whose death is a ModelError."""
    with ProcessPoolExecutor(len(parts), mp_context=CONTEXT, initializer=_begin) as pool:
        futures = [pool.submit(part) for part in parts]
        try:
            for done in progress(as_completed(futures), total=len(futures), desc="parts"):
                done.result()
            return [future.result() for future in futures]
        except BaseException as error:
            for process in list(pool._processes.values()):
                process.kill()
            if isinstance(error, BrokenProcessPool):
                raise ModelError("A worker was killed, by the system perhaps, for lack of memory.") from None
            raise


def gate_in_parts(
    images: Sequence[ImageLike],
    techniques: Mapping[str, Combinable],
    recipe: Reading,
    settings: GateSettings,
    count: int,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    progress: Progress = silent,
) -> GateResult:
    """Score techniques (:func:`~diffeat.studies.gate`), each worker some of them; all measure the base for themselves.

    Args:
        count: Of workers; as many as there are techniques are used at most.

    Raises:
        InvalidValueError: There are not as many devices, or as :func:`~diffeat.studies.gate`.
        ModelError: A worker died, or cannot load the model.
    """
    items = list(techniques.items())
    devices = devices_of(min(count, len(items)), device)
    bounds = [len(items) * i // len(devices) for i in range(len(devices) + 1)]
    threads = threads_of(len(devices))
    parts = [
        partial(_gate, images, dict(items[low:high]), recipe, settings, where, dtype, threads)
        for low, high, where in zip(bounds, bounds[1:], devices, strict=False)
    ]
    return reduce(GateResult.merge, in_parts(parts, progress))


def _gate(
    images: Sequence[ImageLike],
    techniques: Mapping[str, Combinable],
    recipe: Reading,
    settings: GateSettings,
    device: str,
    dtype: torch.dtype | str | None,
    threads: int,
) -> GateResult:
    torch.set_num_threads(threads)
    return gate(load_backbone(recipe, device, dtype), images, techniques, recipe, settings)


def _begin() -> None:
    """Ctrl-C is heard by the process that began."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
