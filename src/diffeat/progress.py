"""Progress behind one callable: the library stays silent unless a caller passes a way to show it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

#: Wraps an iterable: ``progress(items, total=…, desc=…)``.
Progress = Callable[..., Iterable[Any]]

_SECONDS = 30
#: Bars that stand in an unfinished line.
_OPEN: list[Any] = []


def silent(items: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
    """Iterate and show nothing."""
    yield from items


def bar(items: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
    """Iterate behind a ``tqdm`` bar; where nobody watches, a line is written now and then."""
    if not sys.stderr.isatty():
        yield from _lines(items, total, desc)
        return
    from tqdm.auto import tqdm

    shown = tqdm(items, total=total, desc=desc, dynamic_ncols=True)
    _OPEN.append(shown)
    try:
        yield from shown
    finally:
        shown.close()
        _OPEN.remove(shown)


def end_lines() -> None:
    """End the lines of bars that an error left open, so that its message has a line of its own."""
    for shown in reversed(_OPEN):
        shown.close()


def _lines(items: Iterable[T], total: int | None, desc: str) -> Iterator[T]:
    of, last = "" if total is None else f" of {total}", time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - last >= _SECONDS:
            last = time.monotonic()
            print(f"{desc or 'progress'}: {done}{of}", file=sys.stderr, flush=True)
        yield item
