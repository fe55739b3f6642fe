"""Pictures are opened ahead of the model, on threads: decoding, hashing and resizing run while it computes.

Order is kept and nothing depends on timing. A file is opened on a thread; what has to be read in order (a frame of a
video, a row of a table, whatever a caller's own function opens) is fetched at once by the thread that asks for it,
before the next one is asked for. Threads wait while :data:`HELD` bytes are open that nobody has taken; only the next
one in turn never waits.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from diffeat.errors import DiffeatError
from diffeat.features.gap import GAP
from diffeat.features.picture import Picture

#: Bytes of pixels that may wait for a call to fill, and as many for a call to begin.
HELD = 5e8


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


#: Pictures that are opened at once.
THREADS = min(8, cores())


def opened_ahead(
    pictures: Iterable[Picture], prepare: Callable[[Picture], object], wanted: Callable[[], int]
) -> Generator[Picture]:
    """The pictures in their order, opened; one that cannot be is given all the same, and says so when it is asked.

    Args:
        prepare: Run on a thread for a picture that is open; a :class:`DiffeatError` is left to who asks again.
        wanted: How many pictures the next call takes.
    """
    queue: deque[tuple[Picture, Future[None]]] = deque()
    room = _Room()

    def first() -> Picture:
        picture, opened = queue.popleft()
        if not opened.done():
            GAP.end()
        opened.result()
        room.leave()
        return picture

    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="diffeat-read")
    try:
        for number, picture in enumerate(pictures):
            if not picture.is_file:
                with suppress(DiffeatError):
                    picture.fetch()
            queue.append((picture, executor.submit(room.open, number, picture, prepare)))
            while len(queue) > wanted() + THREADS or room.full:
                yield first()
        while queue:
            yield first()
    finally:
        room.close()
        executor.shutdown(wait=True, cancel_futures=True)


class _Room:
    """The bytes that open pictures take until they are taken out, one after the other."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: dict[int, int] = {}
        self._next = 0
        self._closed = False

    @property
    def full(self) -> bool:
        return sum(self._held.copy().values()) > HELD

    def open(self, number: int, picture: Picture, prepare: Callable[[Picture], object]) -> None:
        """Open a picture as soon as there is room, or it is its turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or number == self._next or not self.full)
        GAP.give_way()
        if self._closed:
            return
        with suppress(DiffeatError):
            _ = picture.image, picture.key, picture.digest
            prepare(picture)
        with self._changed:
            self._held[number] = picture.bytes_held

    def leave(self) -> None:
        with self._changed:
            self._held.pop(self._next, None)
            self._next += 1
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
