"""Lists of numbers and names on the command line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from diffeat.errors import InvalidValueError, shown

_MOST = 1000


def items_of(texts: Iterable[str]) -> Iterator[str]:
    """What stands between commas, of an option that may be repeated."""
    for text in texts:
        yield from filter(None, (part.strip() for part in text.split(",")))


def read_numbers(texts: Iterable[str], option: str) -> list[float]:
    """Numbers and ranges: ``20,60`` or ``60:500:40`` (from, up to and with, by; 1 if no step).

    Raises:
        InvalidValueError: For anything else; names the option.
    """
    numbers: list[float] = []
    for item in items_of(texts):
        try:
            values = [v for v in map(float, item.split(":")) if math.isfinite(v)]
        except ValueError:
            values = []
        if len(values) != item.count(":") + 1:
            values = []
        if len(values) == 1:
            numbers += values
        elif len(values) in (2, 3) and (step := values[2] if len(values) == 3 else 1.0) > 0 and values[1] >= values[0]:
            count = int((values[1] - values[0]) / step + 1e-9) + 1
            if count > _MOST:
                raise InvalidValueError(f"{option} takes {_MOST} numbers at most; {shown(item)} are more.")
            numbers += [values[0] + k * step for k in range(count)]
        else:
            raise InvalidValueError(f"{option} takes numbers and ranges such as 20,60 or 60:500:40, not {shown(item)}.")
    if not numbers:
        raise InvalidValueError(f"{option} names no number.")
    return list(dict.fromkeys(numbers))


def read_counts(text: str, option: str) -> tuple[int, int, int]:
    """The three numbers of ``8,4,10``: of the train, val and test split.

    Raises:
        InvalidValueError: For anything else; names the option.
    """
    numbers = [int(n) for n in map(str.strip, text.split(",")) if n.isdecimal() and 0 < int(n[:9]) == int(n)]
    if len(numbers) != 3 or text.count(",") != 2:
        raise InvalidValueError(f"{option} takes three numbers from 1, such as 8,4,10, not {shown(text)}.")
    return numbers[0], numbers[1], numbers[2]
