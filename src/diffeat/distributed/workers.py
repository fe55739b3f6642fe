"""A source whose units are done by workers: processes of this machine, or actors of a Ray cluster.

The workers load the model; this process does not, unless somebody asks for features that are not stored. It plans
(:func:`~diffeat.extraction.to_store.plan_units`), gives units away (:mod:`diffeat.distributed.schedule`), and hears
what came of them. Shards are written where they are made: only the places of pictures, and rows, travel. A shard's
bytes do not depend on who made it: recipe, weights, precision, rows per call and threads are the same for all workers,
and one that has another model is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, Self

import torch

from diffeat.backbones.placement import device_of
from diffeat.distributed.local import LocalHosts
from diffeat.distributed.schedule import DEATHS, Schedule
from diffeat.distributed.worker import Hello, Lost, Order, Refused, Released, Task
from diffeat.errors import DiffeatError, InvalidValueError, ModelError
from diffeat.extraction import Recipe, load_source
from diffeat.extraction.filling import Done, Row, Step, Unit
from diffeat.features import Failed, FeatureMap, Group, Picture, Source, Spec, Streams
from diffeat.features.ahead import cores
from diffeat.storage import FeatureStore

log = logging.getLogger("diffeat")


class Hosts(Protocol):
    """Where so many workers (``count``) run: it starts them, gives them orders, and hears from them."""

    count: int

    def start(self, number: int) -> None:
        """Start a worker, anew if it was lost."""
        ...

    def give(self, number: int, order: Order | None) -> None:
        """Give a worker a unit; ``None`` ends the run."""
        ...

    def events(self) -> Iterator[tuple[int, object]]:
        """What workers say, as soon as one says anything: Hello, Row, Released, Refused, Lost."""
        ...

    def stop(self, number: int) -> None:
        """Do without a worker."""
        ...

    def close(self) -> None:
        """End all workers; they can be started again."""
        ...

    def leave(self) -> None:
        """Give back what was joined for them."""
        ...


class Workers(Streams[FeatureMap]):
    """A source for :func:`~diffeat.extraction.extract_to_store`, and for everything that keeps features in a store.

    Args:
        recipe: What is read.
        hosts: Where workers run.
        load: Loads the source in this process, for what is not stored.
        another: Workers in place of these, for another recipe.

    Raises:
        ModelError: No worker can load the model (when they are first needed).
    """

    def __init__(
        self,
        recipe: Spec,
        hosts: Hosts,
        load: Callable[[], Source[FeatureMap]],
        another: Callable[[Any], Workers] | None = None,
    ) -> None:
        self.recipe = recipe
        self._another = another
        self._family: list[Workers] = [self]  # of which one works at a time
        self._hosts = hosts
        self._load = load
        self._starts = [0] * hosts.count  # without ever being ready
        self._ready: dict[int, Hello] = {}
        self._hello: Hello | None = None  # of the first one, which all others are to equal
        self._running = False

    # --- a source ---------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """Of the workers' source, which the first one tells."""
        return self._greeting.fingerprint

    @property
    def precision(self) -> str:
        """Of the workers' source."""
        return self._greeting.precision

    @property
    def map_names(self) -> tuple[str, ...]:
        """Of the workers' source."""
        return self._greeting.map_names

    @cached_property
    def here(self) -> Source[FeatureMap]:
        """The source in this process."""
        return self._load()

    def session(self) -> AbstractContextManager[object]:
        return self.here.session()

    def group(self, picture: Picture) -> Group:
        """As the source in this process."""
        return self.here.group(picture)

    def read(self, pictures: Sequence[Picture]) -> Iterable[FeatureMap | Failed]:
        """As the source in this process."""
        return self.here.read(pictures)

    # --- workers ----------------------------------------------------------------------------------

    @property
    def ready(self) -> list[Hello]:
        """Workers that have loaded the model."""
        return list(self._ready.values())

    def fill(self, store: FeatureStore, units: Iterable[Unit], done: Done, step: Step) -> None:
        """Have units done by the workers (see :func:`diffeat.extraction.filling.fill`).

        Raises:
            StoreError: The store cannot be written; complete shards stay.
            ModelError: No worker can load the model.
        """
        schedule = Schedule(units)
        folder = store.path.absolute() if isinstance(store.path, Path) else store.path
        store.share()

        def report(row: Row | None) -> None:
            if row is not None:
                done(row)
                step(len(row.extracted) + len(row.failed))

        def give() -> None:
            for number in sorted(self._ready):
                while (unit := schedule.take(number)) is not None:
                    self._hosts.give(number, Order(folder, store.head, unit))

        try:
            self._start()
            give()
            while not schedule.over:
                for number, event in self._hear():
                    if isinstance(event, Row):
                        report(schedule.finished(number, event))
                    elif isinstance(event, Lost):
                        for row in schedule.lost(number, event.reason):
                            report(row)
                give()
            self._release()
        except BaseException:
            self.close()
            raise
        store.refresh()

    def of(self, recipe: Spec) -> Workers:
        """Workers for another recipe, in place of these: only one kind runs at a time, and all end with the first.

        Raises:
            InvalidValueError: They were made for one recipe only.
        """
        if self._another is None:
            raise InvalidValueError("These workers were made for one recipe; start_workers makes some for any.")
        other = self._another(recipe)
        other._family = self._family
        self._family.append(other)
        return other

    def close(self) -> None:
        """End the workers."""
        for each in self._family:
            each._end()
        for each in self._family:
            each._hosts.leave()

    def _end(self) -> None:
        if self._running:
            self._ready.clear()
            self._running = False
            self._hosts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _greeting(self) -> Hello:
        self._start()
        while self._hello is None:
            self._hear()
        return self._hello

    def _start(self) -> None:
        if not self._running:
            for each in self._family:
                each._end()
            self._running = True
            self._starts = [0] * self._hosts.count
            for number in range(self._hosts.count):
                self._hosts.start(number)

    def _release(self) -> None:
        """End the run: afterwards no worker has the store open."""
        holding = set(self._ready)
        for number in holding:
            self._hosts.give(number, None)
        while holding:
            holding -= {number for number, event in self._hear() if isinstance(event, Released | Lost)}

    def _hear(self) -> list[tuple[int, object]]:
        """What workers said; those that died are started anew, those that cannot help are left out."""
        events = list(self._hosts.events())
        for number, event in events:
            if isinstance(event, Hello):
                self._welcome(number, event)
            elif isinstance(event, Refused) and number in self._ready:
                raise event.error
            elif isinstance(event, Refused):
                self._leave_out(number, event.error)
            elif isinstance(event, Lost):
                was_ready = number in self._ready
                self._ready.pop(number, None)
                self._starts[number] += not was_ready
                if self._starts[number] < DEATHS:
                    self._hosts.start(number)
                else:
                    reason = f"{DEATHS} times it ended while it was loading the model: {event.reason}"
                    self._leave_out(number, ModelError(reason))
        return events

    def _welcome(self, number: int, hello: Hello) -> None:
        first = self._hello = self._hello or hello
        if hello.fingerprint == first.fingerprint:
            self._starts[number] = 0
            self._ready[number] = hello
            return
        told = f"(fingerprint {hello.fingerprint[:16]}) than {first.host} ({first.fingerprint[:16]})"
        self._leave_out(number, ModelError(f"{hello.host} has another model {told}."))

    def _leave_out(self, number: int, why: DiffeatError) -> None:
        self._hosts.stop(number)
        self._starts[number] = DEATHS
        if min(self._starts) >= DEATHS:
            raise why
        log.warning("Worker %d of %d is left out: %s", number + 1, self._hosts.count, why)


def start_workers(
    recipe: Recipe,
    count: int | None = None,
    *,
    ray: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | str | None = None,
    batch_size: int | None = None,
    optimise: Sequence[str] = (),
    texts: Collection[str | None] | None = None,
) -> Workers:
    """Workers for a recipe; they start when they are needed, and end with a ``with`` block or the process.

    Args:
        count: Of this machine: on a GPU one for each at most, on a CPU with equal shares of the threads. Of a Ray
            cluster: one for each GPU, or each CPU, if not given.
        ray: Address of a Ray cluster (``host:port``, ``auto`` for the one that this machine is part of, ``local`` for
            one of its own); needs ``pip install "diffeat[ray]"``.
        device: As :func:`~diffeat.extraction.load_source` takes it, as ``dtype``, ``batch_size``, ``optimise`` and
            ``texts``.

    Raises:
        InvalidValueError: There are not as many devices.
        ModelError: Ray is not installed, or there is no cluster at the address.

    Example:
        >>> from diffeat.extraction import Recipe, extract_to_store
        >>> from diffeat.storage import FeatureStore
        >>> with start_workers(Recipe.load("tiny"), 2) as source:  # doctest: +SKIP
        ...     with FeatureStore.of("features", source, "float16") as store:
        ...         extract_to_store(source, sorted(Path("photos").glob("*.jpg")), store)
    """
    how: dict[str, Any] = {"device": device, "dtype": dtype, "batch_size": batch_size, "optimise": optimise}
    how["texts"] = texts
    here = partial(load_source, recipe, **how)
    another = partial(start_workers, count=count, ray=ray, **how)
    if ray is not None:
        from diffeat.distributed.cluster import RayHosts

        return Workers(recipe, RayHosts.join(ray, count, here, device), here, another)
    devices = devices_of(count or 1, device)
    threads = threads_of(len(devices))
    loads = [partial(load_source, recipe, **{**how, "device": each}) for each in devices]
    return Workers(recipe, LocalHosts([Task(load, threads) for load in loads]), here, another)


def devices_of(count: int, device: torch.device | str | None) -> list[str]:
    """The device of each worker of this machine."""
    where = device_of(device)
    if where.type == "cpu" or where.index is not None:
        return [str(where)] * count
    there = torch.accelerator.device_count()
    if count > there:
        raise InvalidValueError(
            f"{count} workers are asked for, and this machine has {there} devices of the kind {where.type}, one for "
            f"each worker. Give --workers {there}, or --device cpu."
        )
    return [f"{where.type}:{index}" for index in range(count)]


def threads_of(count: int) -> int:
    """Threads of each worker of this machine: its share of the processor, or as many as this process has, if fewer."""
    return min(torch.get_num_threads(), max(1, cores() // count))
