"""Functions that a recipe can name: ``package.module:function``."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from diffeat.errors import InvalidValueError


def function_name(function: str | Callable[..., object]) -> str:
    """``module:qualified.name``; a name stays as it is.

    Lambdas, local functions and objects cannot be imported by a name: theirs tells them apart within this process.
    """
    if isinstance(function, str):
        return function
    named = hasattr(function, "__qualname__")
    owner = function if named else type(function)
    name = f"{owner.__module__}:{owner.__qualname__}"
    return name if named and "<" not in name else f"{name}#{id(function):x}"


def load_function(function: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function of a name; a function stays as it is.

    Raises:
        InvalidValueError: If there is no such function.
    """
    if callable(function):
        return function
    module, _, name = function.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidValueError(f"{function!r} is not a function that can be imported ({error}).") from None
    if not callable(found):
        raise InvalidValueError(f"{function!r} is {type(found).__name__}, not a function.")
    return found
