"""What is wrong with a recipe, in the words of its fields."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from diffeat.errors import did_you_mean

_LONGEST = 80


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each fault: its place, what is wrong, the nearest valid field."""
    lines: dict[str, None] = {}
    for item in error.errors():
        location = item["loc"]
        place, owner = _walk(location, model)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = f"unknown field. {_nearest(str(location[-1]), owner, model)}".rstrip()
        elif item["type"] == "union_tag_invalid":
            context = item.get("ctx", {})
            tag, kinds = str(context.get("tag")), str(context.get("expected_tags")).replace("'", "").split(", ")
            message = f"there is no kind {tag!r}. {did_you_mean(tag, kinds)}".rstrip()
        elif item["type"] == "missing":
            message = "this field is required"
        elif "input" in item and not isinstance(item["input"], dict):
            shown = repr(item["input"])
            message += f" (got {shown if len(shown) <= _LONGEST else shown[:_LONGEST] + '…'})"
        lines[f"  {place or 'recipe'}: {message}"] = None
    return list(lines)


def _walk(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """A place as a user writes it, and the model whose field its last part is.

    Pydantic names the branch of a union that it tried (a tag or a class); those parts of a place are no fields.
    """
    here: list[type[BaseModel]] = [model]
    owner, parts = model, []
    for step in location:
        if isinstance(step, int):
            parts.append(str(step))
            continue
        with_field = next((m for m in here if step in m.model_fields), None)
        if with_field is not None:
            parts.append(step)
            owner, here = with_field, list(_models(with_field.model_fields[step].annotation))
            continue
        branch = [m for m in here if step == m.__name__ or step == getattr(m.model_fields.get("kind"), "default", None)]
        if branch:
            owner, here = branch[0], branch
        elif here and step is location[-1]:
            parts.append(step)
            owner = here[0]
    return ".".join(parts), owner


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models inside a field's type: of an option, a tuple, a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (Union, types.UnionType, tuple, list, dict) or get_args(annotation):
        for inner in get_args(annotation):
            yield from _models(inner)


def _nearest(name: str, owner: type[BaseModel], model: type[BaseModel]) -> str:
    """The field that was meant: one of that name elsewhere in the recipe, or one of a like name here."""
    elsewhere = [path for path in _paths(model, ()) if path[-1] == name]
    if elsewhere:
        return f"Did you mean {'.'.join(min(elsewhere, key=len))!r}?"
    return did_you_mean(name, owner.model_fields)


def _paths(model: type[BaseModel], before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*before, name)
        for inner in _models(field.annotation):
            if get_origin(field.annotation) is not tuple and len(before) < 3:
                yield from _paths(inner, (*before, name))
