"""What a worker does, wherever it runs: it loads the model once, and does units as they come, in one stream."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import NamedTuple

import torch

from diffeat.errors import DiffeatError, InvalidValueError, StoreError, clipped
from diffeat.extraction.filling import Done, Unit, fill
from diffeat.features import FeatureMap, Source
from diffeat.storage import FeatureStore
from diffeat.storage.head import Head
from diffeat.storage.url import Place


@dataclass(frozen=True)
class Task:
    """What decides the bytes of a shard beside its pictures: equal for all workers of a run.

    Attributes:
        load: Loads the source; can be pickled.
        threads: Of the processor, for one worker.
    """

    load: Callable[[], Source[FeatureMap]]
    threads: int = 1


class Order(NamedTuple):
    """A unit to do, and the store that it belongs to."""

    folder: Place
    head: Head
    unit: Unit


@dataclass(frozen=True)
class Hello:
    """A worker has loaded the model: where it runs, and what the source is like."""

    host: str
    process: int
    fingerprint: str
    precision: str
    map_names: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """A worker cannot do what is asked, and no other can: why."""

    error: DiffeatError


@dataclass(frozen=True)
class Released:
    """A worker has ended a run, and closed its store."""


@dataclass(frozen=True)
class Lost:
    """A worker died, or stopped at something that nobody foresaw: how."""

    reason: str


def outcome(error: Exception) -> Refused | Lost:
    """What an error in a worker means for the run."""
    if isinstance(error, DiffeatError):
        return Refused(error)
    return Lost(f"{type(error).__name__}: {clipped(str(error), 200)}")


def cannot_be_sent(order: Order | None, error: Exception) -> InvalidValueError:
    """Why a unit does not reach a worker."""
    name = order.unit.pictures[0].name if order else ""
    return InvalidValueError(
        f"{name} cannot be sent to a worker ({clipped(str(error), 200)}). Give paths, or pictures that a function of a "
        "module opens."
    )


class Worker:
    """Loads the model, and does units."""

    def __init__(self, task: Task) -> None:
        torch.set_num_threads(task.threads)
        self.source = task.load()

    def hello(self) -> Hello:
        source = self.source
        return Hello(socket.gethostname(), os.getpid(), source.fingerprint, source.precision, source.map_names)

    def work(self, orders: SimpleQueue[Order | None], done: Done) -> None:
        """Do the units of one run as they come, until there is ``None``; a thread calls ``done``, in their order."""
        first = orders.get()
        if first is None:
            return
        if not FeatureStore.is_store(first.folder):
            raise StoreError(
                f"{socket.gethostname()} does not see the store {first.folder}, which all machines must have there."
            )
        with FeatureStore.open_to_write(first.folder, first.head, shared=True) as store:
            while first is not None:
                fill(self.source, store, _at_hand(first, orders), done, lambda _: None)
                first = orders.get()


def _at_hand(first: Order, orders: SimpleQueue[Order | None]) -> Iterator[Unit]:
    """Units that are there by now: a stream that waited for one would hold back the pictures of those before."""
    order: Order | None = first
    while order is not None:
        yield order.unit
        try:
            order = orders.get_nowait()
        except Empty:
            return
    orders.put(None)  # the last of this run
