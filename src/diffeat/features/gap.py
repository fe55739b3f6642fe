"""The gap between two calls of a model, in which its device has nothing to do.

Whoever prepares the next call goes first: threads that read pictures and pack features give way, since with them each
of its operations would wait for the interpreter and for a processor. They wait for a moment at the most, and not at all
where the device is at work or nothing is being prepared. What is computed does not depend on it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds for which others give way; a gap takes less where pictures are there.
_MOST = 0.02


class Gap:
    """Between two calls, or not; others give way for ``most`` seconds after a call."""

    def __init__(self, most: float = _MOST) -> None:
        self._most, self._end = most, 0.0
        self._over = threading.Event()
        self._over.set()

    def end(self) -> None:
        """Others go on: what is prepared waits for them."""
        self._over.set()

    @contextmanager
    def over(self) -> Iterator[None]:
        """Others go on while the device is at work; afterwards there is a gap."""
        self.end()
        try:
            yield
        finally:
            self._end = time.monotonic() + self._most
            self._over.clear()

    def give_way(self) -> None:
        """Wait until the gap is over, if there is one."""
        left = self._end - time.monotonic()
        if left > 0:
            self._over.wait(left)


#: Of this process; several models in several threads share it, since they share the interpreter.
GAP = Gap()
