"""The part of an extraction that can be done anywhere: some units of pictures, each of which becomes a shard.

A unit is what one process does in one piece: its pictures share calls with no others, so that its shard has the same
bytes whoever makes it, and in whatever company. :func:`fill` does units one after the other, in one stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, runtime_checkable

from diffeat.errors import DiffeatError
from diffeat.features import FeatureMap, Picture, Source
from diffeat.features.gap import GAP
from diffeat.memory import Aside
from diffeat.storage import FeatureStore
from diffeat.storage.shard import Maps

#: Bytes of features that may wait to be packed: those of a whole call, so that the next one need not wait for the disk;
#: and of a shard that is written while the next is packed.
_WAITING = 5e8


@dataclass(frozen=True)
class Unit:
    """Pictures that become the shard at a position in the order of all; of a trial they are read alone."""

    position: int
    pictures: tuple[Picture, ...]
    trial: bool = False


@dataclass(frozen=True)
class Row:
    """What came of a unit: names of the pictures in the shard, and of those that failed, with the reason.

    Attributes:
        bytes: Of the features in the shard.
    """

    position: int
    extracted: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    bytes: int = 0


#: Told what came of each unit, when its shard is on disk.
Done = Callable[[Row], object]
#: Told that so many pictures more went by.
Step = Callable[[int], object]


@runtime_checkable
class Fills(Protocol):
    """A source that has units done elsewhere."""

    def fill(self, store: FeatureStore, units: Iterable[Unit], done: Done, step: Step) -> None:
        """Do units in any order, as :func:`fill` does them."""
        ...

    def of(self, recipe: Any) -> Source[FeatureMap]:
        """The same for another recipe, in place of this one."""
        ...


def fill(source: Source[FeatureMap], store: FeatureStore, units: Iterable[Unit], done: Done, step: Step) -> None:
    """Extract units into a store, in their order; pictures of the next ones are read while one is computed.

    Args:
        units: Asked for while the pictures of earlier ones wait.
        done: Called from another thread.
    """
    with _Writer(store, done) as writer:
        begun: dict[int, Unit] = {}
        place: dict[str, int] = {}
        left: dict[int, int] = {}
        failures: dict[int, dict[str, str]] = {}
        stored_as: dict[str, tuple[str, str]] = {}

        def pictures() -> Iterator[Picture]:
            for unit in units:
                begun[unit.position], left[unit.position], failures[unit.position] = unit, len(unit.pictures), {}
                place.update({picture.name: unit.position for picture in unit.pictures})
                for picture in unit.pictures:
                    picture.apart = unit.position  # so that a run that goes on makes the same calls
                    text = source.recipe.prompt if picture.text is None else picture.text
                    stored_as[picture.name] = text, picture.stamp or ""  # of before it is read
                    yield picture

        def gone(name: str) -> None:
            position = place.pop(name)
            del stored_as[name]
            left[position] -= 1
            step(1)
            if not left[position]:
                writer.end(begun.pop(position), failures.pop(position))

        def failed(name: str, error: DiffeatError) -> None:
            failures[place[name]][name] = str(error)
            gone(name)

        for feature in source.stream(pictures(), on_error=failed):
            unit = begun[place[feature.image]]
            if not unit.trial:
                writer.add(unit.position, feature, *stored_as[feature.image])
            gone(feature.image)


class _Writer:
    """Packs pictures on one thread and writes shards on another, in order, while the next ones are computed.

    What goes wrong there is raised by the next call, or at the end. Shards that are complete stay.
    """

    def __init__(self, store: FeatureStore, done: Done) -> None:
        self._store, self._done = store, done
        self._packing = ThreadPoolExecutor(1, thread_name_prefix="diffeat-pack")
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="diffeat-write")
        self._waiting: deque[tuple[Future[None], int]] = deque()
        self._held = 0  # bytes that wait
        self._packed: dict[int, dict[str, Maps]] = {}  # used where it is packed only, as is the next
        self._written: Future[None] | None = None  # the shard that was handed over last
        self._failed = False

    def add(self, position: int, feature: FeatureMap, text: str, stamp: str) -> None:
        """Add a picture to a shard."""
        first = next(iter(feature.activations.values()))
        self._do(feature.bytes, self._pack, position, feature, Aside(first.device), text, stamp)

    def end(self, unit: Unit, failures: dict[str, str]) -> None:
        """Write the shard of a unit, and tell what came of it."""
        self._do(0, self._hand_over, unit, failures)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                while self._waiting:
                    self._first()
                if self._written is not None:
                    self._written.result()
        finally:
            for wait in (False, True):  # both are told to end before one is waited for, which may be interrupted
                for thread in (self._packing, self._writing):
                    thread.shutdown(wait=wait, cancel_futures=True)

    def _do(self, size: int, act: Callable[..., None], *arguments: object) -> None:
        while self._waiting and (self._held > _WAITING or self._waiting[0][0].done()):
            self._first()
        if (written := self._written) is not None and written.done():
            written.result()  # a full disk is told now, not when the next shard is ready
        self._held += size
        self._waiting.append((self._packing.submit(self._unless_failed, act, *arguments), size))

    def _first(self) -> None:
        done, size = self._waiting.popleft()
        self._held -= size
        if not done.done():
            GAP.end()
        done.result()

    def _unless_failed(self, act: Callable[..., None], *arguments: object) -> None:
        if self._failed:  # a shard without one of its pictures is not written
            return
        try:
            act(*arguments)
        except BaseException:
            self._failed = True
            raise

    def _pack(self, position: int, feature: FeatureMap, aside: Aside, text: str, stamp: str) -> None:
        GAP.give_way()
        with aside:
            self._packed.setdefault(position, {})[feature.image] = self._store.packed(feature, text, stamp)

    def _hand_over(self, unit: Unit, failures: dict[str, str]) -> None:
        packed = self._packed.pop(unit.position, {})
        size = sum(values.nbytes for maps in packed.values() for _, tensors in maps for values in tensors.values())
        row = Row(unit.position, tuple(packed), failures, size)
        if self._written is not None:
            self._written.result()  # one shard is written while one is packed, and no more are held
        self._written = self._writing.submit(self._write, list(packed.values()), row)
        if size > _WAITING:
            self._written.result()

    def _write(self, packed: list[Maps], row: Row) -> None:
        if packed:
            self._store.write_packed(packed, position=row.position)
        self._done(row)
