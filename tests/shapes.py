"""Enforces shape annotations, and only those: a wrong value of another type is the library's own to refuse.

Functions that are annotated with shapes are decorated while diffeat is imported; all others stay as they are, so that
the tests are not slowed down.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any, get_type_hints

from jaxtyping import AbstractArray, jaxtyped
from torch import Tensor

_ARRAYS = ("Bool[", "Float[", "Int[", "Shaped[")


def enforce(package: str) -> None:
    """Check the shapes of a package that is not imported yet."""
    sys.meta_path.insert(0, _Finder(package))


def checked(function: Any) -> Any:
    """Dimensions of one name are equal within a call."""
    return jaxtyped(function, typechecker=_checker)


class _Finder(PathFinder):
    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # pyright: ignore
        if fullname.split(".")[0] != self._package:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> Any:  # no bytecode is kept: it would be found by runs without the checks
        path = self.get_filename(fullname)
        source = self.get_data(path)
        if not any(array.encode() in source for array in _ARRAYS):
            return super().get_code(fullname)
        tree = ast.parse(source, path)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and _has_shapes([*_arguments(node), node.returns]):
                node.decorator_list.append(_decorator(node))
            elif isinstance(node, ast.ClassDef) and _has_shapes(
                n.annotation for n in node.body if isinstance(n, ast.AnnAssign)
            ):
                node.decorator_list.insert(0, _decorator(node))
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


def _arguments(node: ast.FunctionDef) -> list[ast.expr | None]:
    a = node.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [argument.annotation for argument in every]


def _has_shapes(annotations: Any) -> bool:
    texts = [ast.unparse(annotation) for annotation in annotations if annotation is not None]
    return any(array in text for text in texts for array in _ARRAYS)


def _decorator(node: ast.stmt) -> ast.expr:
    expression = ast.parse("__import__('shapes').checked", mode="eval").body
    return ast.copy_location(expression, node)


def _checker(function: Any) -> Any:
    """Tensors given and returned must fit their annotations."""
    if not inspect.isfunction(function):
        return function
    signature = inspect.signature(function)
    hints: dict[str, Any] | None = None

    @functools.wraps(function, (*functools.WRAPPER_ASSIGNMENTS, "__annotations__"))  # which Python 3.14 leaves out
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
