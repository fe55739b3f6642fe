"""The errors a user can act on.

Every message says what is wrong, the nearest valid choices and how to fix it. The command line prints the message
alone; a program catches :class:`DiffeatError` or one of its kinds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

#: Characters of a value in a message.
_LONGEST = 80
#: Control characters, marks that turn the direction of writing, and bytes of file names that are not UTF-8.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """One line that any terminal shows as it is: what it could not print, or would obey, is written with a backslash.

    Example:
        >>> printable("a\\nb\\udce9.png")
        'a\\\\nb\\\\xe9.png'
    """

    def escaped(match: re.Match[str]) -> str:
        byte = ord(match[0]) - 0xDC00  # how Python holds a byte of a name that is not UTF-8
        return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else match[0].encode("unicode_escape").decode()

    return _UNPRINTABLE.sub(escaped, text)


class DiffeatError(Exception):
    """Base of every error that diffeat raises on purpose; its message is one line, whatever names it holds.

    Attributes:
        exit_code: Of the command line: 2 where something was asked for wrongly, 1 where a run failed.
    """

    exit_code = 2

    def __str__(self) -> str:
        return printable(super().__str__())


class UnknownNameError(DiffeatError, LookupError):
    """A name (activation, recipe, model, site, category …) that does not exist here."""


class InvalidValueError(DiffeatError, ValueError):
    """A value outside its range or of the wrong form (timestep, size, recipe field …)."""


class ImageError(DiffeatError):
    """A picture that cannot be used: missing, corrupt, truncated, empty, too large."""


class ModelError(DiffeatError):
    """A model that cannot be loaded or does not offer what was asked of it."""


class TooLargeError(ModelError):
    """A picture that does not fit into memory, even alone."""


class TapError(DiffeatError, RuntimeError):
    """An activation that exists but was not produced by the forward pass."""

    exit_code = 1


class NonFiniteError(DiffeatError, ArithmeticError):
    """NaN or infinity where features were expected."""

    exit_code = 1


class StoreError(DiffeatError):
    """A feature store that cannot be written, read or continued."""


class DatasetError(DiffeatError):
    """A dataset that is missing, half unpacked or inconsistent."""


def did_you_mean(name: str, choices: Iterable[str], most: int = 3) -> str:
    """A sentence naming the closest choices, or all of them when there are few, or ``""`` when nothing is near.

    Args:
        name: What was asked for.
        choices: The valid names.
        most: How many to suggest.
    """
    pool, name = list(dict.fromkeys(choices)), name[:_LONGEST]
    near = difflib.get_close_matches(name, pool, n=most, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(repr(n) for n in near) + "?"
    if 0 < len(pool) <= 24:
        return "Choose one of: " + ", ".join(repr(one) if "," in one else one for one in pool) + "."
    return ""


def shown(value: object) -> str:
    """A value as a message has it: on one line, and not too long."""
    if isinstance(value, int) and value.bit_length() > 4 * _LONGEST:
        return f"a number of {value.bit_length()} bits"
    if isinstance(value, str) and len(value) > _LONGEST:
        value = f"{value[: _LONGEST // 2]}…{value[-_LONGEST // 2 :]}"
    return clipped(repr(value[:_LONGEST] if isinstance(value, bytes) else value), _LONGEST + 8)


def clipped(text: str, longest: int = _LONGEST) -> str:
    """Text on one line, without its middle where it is long: a path is told by its end."""
    text = " ".join(text.split())
    return text if len(text) <= longest else f"{text[: longest // 2]}…{text[-longest // 2 :]}"
