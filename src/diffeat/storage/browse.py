"""Names of a store's pictures, a page at a time; those of a million pictures never become so many objects."""

from __future__ import annotations

import operator
import re
from typing import NamedTuple, SupportsIndex

import numpy as np

from diffeat.errors import InvalidValueError, UnknownNameError, shown
from diffeat.storage.index import Index


class Page(NamedTuple):
    """Some of the names that were looked for, and how many there are in all."""

    names: list[str]
    total: int


def named_like(index: Index, text: str = "", start: int = 0, most: int = 100) -> Page:
    """Names of pictures in the order of the store, a page of them.

    Args:
        text: A part of the name, in whatever case; or, with ``*`` or ``?`` in it, the pattern of whole names.
        start: The number of the first on the page, from 0.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if start < 0 or most < 1:
        raise InvalidValueError(f"A page begins at 0 or later and holds a name or more, not {most} from {start}.")
    column = index.values("image").combine_chunks()
    if not text or not len(column):
        return Page(column.slice(start, most).to_pylist(), len(column))
    if "*" in text or "?" in text:
        plain = re.sub(r"([%_\\])", r"\\\1", text)
        how = pc.MatchSubstringOptions(plain.replace("*", "%").replace("?", "_"))
        act = "match_like"
    else:
        act, how = "match_substring", pc.MatchSubstringOptions(text, ignore_case=True)
    fits = pc.call_function(act, [column.dictionary], how).to_numpy(zero_copy_only=False)
    numbers = np.flatnonzero(fits[column.indices.to_numpy()])
    return Page(column.take(pa.array(numbers[start : start + most])).to_pylist(), len(numbers))


def place_of(key: SupportsIndex, count: int) -> int:
    """The place of a picture among ``count`` by its number, of Python, NumPy or PyTorch; negative from the end.

    Raises:
        InvalidValueError: It is no whole number.
        UnknownNameError: There is no such place.
    """
    try:
        number = operator.index(key)
    except TypeError:
        raise InvalidValueError(f"A stored picture goes by its number or name, not by {shown(key)}.") from None
    if not -count <= number < count:
        raise UnknownNameError(f"The store has {count} pictures, no number {number}.")
    return number
