"""Enforces shape annotations, and only those: a wrong value of another type is the library's own to refuse."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from jaxtyping import AbstractArray
from torch import Tensor


def checked(function: Any) -> Any:
    """A checker for jaxtyping's import hook: tensors given and returned must fit their annotations."""
    if not inspect.isfunction(function):
        return function
    signature = inspect.signature(function)
    hints: dict[str, Any] | None = None

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal hints
        if hints is None:
            hints = _shapes(function)
        if not hints:
            return function(*args, **kwargs)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            _check(hints, name, value)
        result = function(*args, **kwargs)
        _check(hints, "return", result)
        return result

    return call


def _shapes(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        found = get_type_hints(function)
    except NameError:  # names imported for type checkers only
        return {}
    return {n: h for n, h in found.items() if isinstance(h, type) and issubclass(h, AbstractArray)}


def _check(hints: dict[str, Any], name: str, value: Any) -> None:
    if name in hints and isinstance(value, Tensor) and not isinstance(value, hints[name]):
        raise TypeError(f"{name} is {value.dtype} {tuple(value.shape)}, not {hints[name]}")
