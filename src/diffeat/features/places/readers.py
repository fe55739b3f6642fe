"""Readers of large files, kept open for the next member; each is used by one thread of one process at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from diffeat.errors import ImageError
from diffeat.features.places.where import File

#: Readers of one kind that wait open.
_IDLE = 8


class _Closes(Protocol):
    def close(self) -> object: ...


R = TypeVar("R", bound=_Closes)


class Readers(Generic[R]):
    """Args:
    open: Makes a reader of a file.
    """

    def __init__(self, open: Callable[[File], R]) -> None:
        self._open = open
        self._idle: list[tuple[tuple[int, File, str | None], R]] = []
        self._lock = threading.Lock()

    @contextmanager
    def of(self, file: File, stamp: str | None) -> Iterator[R]:
        """A reader of the file as it was when it had the stamp."""
        key = (os.getpid(), file, stamp)
        with self._lock:
            here = next((i for i in reversed(range(len(self._idle))) if self._idle[i][0] == key), None)
            reader = None if here is None else self._idle.pop(here)[1]
        if reader is None:
            if stamp is not None and file.stamp() != stamp:
                file.stream().close()  # says why, if it is gone
                raise ImageError(f"{file}: has changed since its pictures were listed.")
            reader = self._open(file)
        try:
            yield reader
        except BaseException:
            reader.close()
            raise
        with self._lock:
            self._idle.append((key, reader))
            surplus = [reader for _, reader in self._idle[:-_IDLE]]
            del self._idle[:-_IDLE]
        for old in surplus:
            old.close()
