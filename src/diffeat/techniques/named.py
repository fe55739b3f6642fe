"""Functions that a recipe can name: ``package.module:function``.

To import one is to run code, so a name becomes a function in one place only, when the technique that holds it is made,
and only where that is allowed. A function given in Python needs no leave.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from diffeat.errors import InvalidValueError, shown

_ALLOWED: ContextVar[bool] = ContextVar("functions may be imported by their names", default=False)


@contextmanager
def code_allowed(allowed: bool = True) -> Iterator[None]:
    """Names of functions in what is read are imported; without, they are refused (or as they were, if not allowed)."""
    token = _ALLOWED.set(allowed or _ALLOWED.get())
    try:
        yield
    finally:
        _ALLOWED.reset(token)


@dataclass(frozen=True)
class _Named:
    """A function that was asked for by a name, which stays its name."""

    name: str
    function: Callable[..., Any]

    def __call__(self, *arguments: Any) -> Any:
        return self.function(*arguments)


def function_name(function: str | Callable[..., object]) -> str:
    """``module:qualified.name``; a name stays as it is.

    Lambdas, local functions and objects cannot be imported by a name: theirs tells them apart within this process.
    """
    if isinstance(function, (str, _Named)):
        return function if isinstance(function, str) else function.name
    named = hasattr(function, "__qualname__")
    owner = function if named else type(function)
    name = f"{owner.__module__}:{owner.__qualname__}"
    return name if named and "<" not in name else f"{name}#{id(function):x}"


def load_function(function: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function of a name, if that is allowed (:func:`code_allowed`); a function stays as it is."""
    if callable(function):
        return function
    if not _ALLOWED.get():
        raise InvalidValueError(
            f"{shown(function)} names code to run. If you trust it, allow it: --allow-code, or Recipe.load(…, "
            "allow_code=True); or give the function itself in Python."
        )
    module, _, name = function.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # a module raises whatever it likes
        raise InvalidValueError(f"{shown(function)} is not a function that can be imported ({error}).") from None
    if not callable(found):
        raise InvalidValueError(f"{shown(function)} is {type(found).__name__}, not a function.")
    return _Named(function, found)
