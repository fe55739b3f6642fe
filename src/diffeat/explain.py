"""What is wrong with values that a user wrote, in the words of their fields."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from diffeat.errors import InvalidValueError, clipped, did_you_mean, shown

_LONGEST, _MOST = 320, 8
#: Where a fault is, and what it is.
Fault = tuple[str, str]


class InvalidFieldsError(InvalidValueError):
    """Fields that do not take their values.

    Args:
        what: They belong to.
        error: Of the validation.
        model: The fields are of.
    """

    def __init__(self, what: str, error: ValidationError, model: type[BaseModel]) -> None:
        self.faults = list(faults(error, model))
        lines = list(
            dict.fromkeys(f"{clipped(place)}: {message}" if place else message for place, message in self.faults)
        )
        more = [f"and {len(lines) - _MOST} more"] if len(lines) > _MOST else []
        text = "; ".join([*(line.rstrip(".") for line in lines[:_MOST]), *more])
        super().__init__(f"{what} is not valid: {text}{'' if text.endswith('?') else '.'}")


def faults(error: ValidationError, model: type[BaseModel]) -> Iterator[Fault]:
    """The faults of a model's fields; those of a recipe inside it by their own fields."""
    for item in error.errors():
        location, kind, value = item["loc"], item["type"], item.get("input")
        place, owner = _walk(location, model)
        context = item.get("ctx", {})
        inside = context.get("faults") or getattr(context.get("error"), "faults", None)
        if inside:
            yield from ((".".join(filter(None, (place, inner))), message) for inner, message in inside)
        elif kind == "extra_forbidden":
            yield place, f"unknown field. {_nearest(str(location[-1]), owner, model)}".rstrip()
        elif kind == "union_tag_invalid":
            tag, kinds = str(context.get("tag")), str(context.get("expected_tags")).replace("'", "").split(", ")
            yield place, f"there is no kind {shown(tag)}. {did_you_mean(tag, kinds)}".rstrip()
        elif kind == "union_tag_not_found" and isinstance(value, dict):
            yield from _without_kind(place, value)
        elif kind == "missing":
            yield place, "this field is required"
        else:
            plain = isinstance(value, (str, int, float)) or (isinstance(value, (list, tuple)) and kind != "value_error")
            message = clipped(item["msg"].removeprefix("Value error, "), _LONGEST)
            said = isinstance(value, str) and shown(value) in message
            yield place, message + (f" (got {shown(value)})" if plain and not said else "")


def _without_kind(place: str, value: dict[Any, Any]) -> Iterator[Fault]:
    near = difflib.get_close_matches("kind", [str(key)[:40] for key in value], 1)
    yield (
        (f"{place}.{near[0]}", "unknown field. Did you mean 'kind'?")
        if near
        else (f"{place}.kind", "this field is required")
    )


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
    """The field that was meant: of almost that name here, of that name elsewhere, or of a like name here."""
    name = name[:40]
    if not difflib.get_close_matches(name, owner.model_fields, cutoff=0.8):
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
