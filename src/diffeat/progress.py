"""Progress behind one callable: the library stays silent unless a caller passes a way to show it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

#: Wraps an iterable: ``progress(items, total=…, desc=…)``.
Progress = Callable[..., Iterable[Any]]


def silent(items: Iterable[T], total: int | None = None, desc: str = "") -> Iterator[T]:
    """Iterate and show nothing."""
    yield from items


def bar(items: Iterable[T], total: int | None = None, desc: str = "") -> Iterable[T]:
    """Iterate behind a ``tqdm`` bar."""
    from tqdm.auto import tqdm

    return tqdm(items, total=total, desc=desc, dynamic_ncols=True)
