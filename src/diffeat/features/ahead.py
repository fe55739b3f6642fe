"""Pictures are opened ahead of the model, on threads: decoding, hashing and resizing run while it computes.

Order is kept and nothing depends on timing. A file is opened on a thread; a picture that a caller's own function opens
(a member of a tar file, a row of a table) is opened at once by the thread that asks for it, before the next one is
asked for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from diffeat.errors import DiffeatError
from diffeat.features.picture import Picture

#: Bytes of pixels that may wait for a call to fill.
HELD = 5e8
#: Pictures that are opened at once.
THREADS = min(8, os.cpu_count() or 1)


def opened_ahead(
    pictures: Iterable[Picture], prepare: Callable[[Picture], object], wanted: Callable[[], int]
) -> Generator[Picture]:
    """The pictures in their order, opened; one that cannot be is given all the same, and says so when it is asked.

    Args:
        prepare: Run on a thread for a picture that is open; what it raises is raised again by who needs it.
        wanted: How many pictures the next call takes.
    """
    queue: deque[tuple[Picture, Future[None]]] = deque()
    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="diffeat-read")
    try:
        for picture in pictures:
            if not picture.is_file:
                with suppress(DiffeatError):
                    _ = picture.image
            queue.append((picture, executor.submit(_open, picture, prepare)))
            while len(queue) > wanted() + THREADS or _bytes(queue) > HELD:
                yield _first(queue)
        while queue:
            yield _first(queue)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _open(picture: Picture, prepare: Callable[[Picture], object]) -> None:
    with suppress(DiffeatError):
        _ = picture.image, picture.key
        prepare(picture)


def _first(queue: deque[tuple[Picture, Future[None]]]) -> Picture:
    picture, opened = queue.popleft()
    opened.result()
    return picture


def _bytes(queue: deque[tuple[Picture, Future[None]]]) -> int:
    """What is held by now, as far as it is open."""
    return sum(picture.bytes_held for picture, _ in queue)
