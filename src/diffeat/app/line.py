"""Computations of one model, one at a time: they wait in a line of limited length, and end when nobody waits for them.

A computation runs in a thread. When the browser leaves, or the server stops, the next module of any network that is
called in that thread raises :class:`Stopped`: a forward pass ends within milliseconds, and with it all that led to it.
So does :func:`go_on`, which what takes long without a network calls now and then.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from fastapi import Request

from diffeat.errors import DiffeatError

T = TypeVar("T")

#: Computations that one model has at once, the running one included.
LONGEST = 16
#: Set when nobody waits for what runs here any more.
_STOP: ContextVar[threading.Event | None] = ContextVar("stop", default=None)


class Stopped(DiffeatError):
    """Nobody waits for a computation any more."""


class Busy(DiffeatError):
    """Too many computations wait."""


class Line:
    """The line of one model."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._turn = asyncio.Lock()
        self._stops: set[threading.Event] = set()

    async def run(self, request: Request, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread when its turn has come.

        Raises:
            Busy: The line is full.
            Stopped: The browser has left, or the server stops.
        """
        if len(self._stops) >= self._longest:
            raise Busy(f"{self._longest} computations wait for this model already. Wait for some, or cancel them.")
        stop = threading.Event()
        self._stops.add(stop)
        turn = asyncio.ensure_future(self._in_turn(work, stop))
        gone = asyncio.ensure_future(_left(request))
        try:
            await asyncio.wait({turn, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                stop.set()
                self._stops.discard(stop)
            return await turn
        finally:
            stop.set()
            gone.cancel()
            self._stops.discard(stop)

    async def _in_turn(self, work: Callable[[], T], stop: threading.Event) -> T:
        async with self._turn:
            return await asyncio.to_thread(_stoppable, work, stop)

    def close(self) -> None:
        """Stop all that runs or waits."""
        for stop in self._stops:
            stop.set()


async def _left(request: Request) -> None:
    """Returns when the browser has left; its body was read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stoppable(work: Callable[[], T], stop: threading.Event) -> T:
    with stopped_by(stop):
        go_on()
        return work()


def go_on() -> None:
    """
    Raises:
        Stopped: Nobody waits any more for what runs in this thread.
    """
    stop = _STOP.get()
    if stop is not None and stop.is_set():
        raise Stopped("Cancelled.")


def while_wanted(items: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
    """Items while somebody waits for what is made of them; a :data:`diffeat.progress.Progress`. Raises as go_on."""
    for item in items:
        go_on()
        yield item


@contextmanager
def stopped_by(stop: threading.Event) -> Iterator[None]:
    """Calls of modules in this thread, and :func:`go_on`, raise :class:`Stopped` once the event is set."""
    from torch.nn.modules.module import register_module_forward_pre_hook

    token = _STOP.set(stop)
    handle = register_module_forward_pre_hook(lambda _module, _inputs: go_on())
    try:
        yield
    finally:
        handle.remove()
        _STOP.reset(token)
