"""Weights that a recipe names by their place on a disk: taken into a run folder, or told.

Files of trained joins and of safetensors (a LoRA, another denoiser) travel as ``weights/DIGEST.safetensors``. Whole
models, and files of other forms, stay where they are: the run names them by their full path, and what is not there is
told before anything is loaded. Such a path may be changed in the run's ``recipe.yaml``; weights are told by what they
hold (:attr:`~diffeat.features.Source.fingerprint`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from diffeat.backbones.card import cards
from diffeat.errors import InvalidValueError, shown
from diffeat.extraction.reading import TrainedWeights
from diffeat.extraction.recipe import Recipe
from diffeat.geometry import file_digest

WEIGHTS = "weights"
#: Fields that name weights.
_PLACES = ("model", "source", "path")
M = TypeVar("M", bound=BaseModel)
#: What the fields of a part that name weights become: (part, field, value) → changed fields.
Change = Callable[[BaseModel, str, str], dict[str, Any]]


def contained(recipe: Recipe) -> tuple[Recipe, dict[str, Path]]:
    """The recipe as it stands in a run folder, and the files that go there, by their names in it."""
    copies: dict[str, Path] = {}

    def moved(part: BaseModel, field: str, value: str) -> dict[str, Any]:
        if not os.path.exists(value) or value in cards():
            return {}
        inside = getattr(part, "file", None) or ("model.safetensors" if isinstance(part, TrainedWeights) else "")
        file = Path(value) / inside if os.path.isdir(value) else Path(value)
        if not file.is_file() or not (isinstance(part, TrainedWeights) or file.suffix == ".safetensors"):
            return {field: str(Path(value).resolve())}
        digest = file_digest(file)
        copies[name := f"{WEIGHTS}/{digest[:12]}{file.suffix}"] = file
        told = {"sha256": part.sha256 or digest} if isinstance(part, TrainedWeights) else {}
        return {field: name, "file": None, **told}

    return _changed(recipe, moved), copies


def copy_into(folder: Path, copies: dict[str, Path]) -> None:
    """Copy files there that are not there yet; a name tells what is inside."""
    for name, file in copies.items():
        place = folder / name
        if not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f".{place.name}.part")
            shutil.copyfile(file, part)
            os.replace(part, place)


def located(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe of a run folder with the weights that lie there.

    Raises:
        InvalidValueError: Some are neither there nor where the recipe names them.
    """

    def found(part: BaseModel, field: str, value: str) -> dict[str, Any]:
        inside = value.startswith(f"{WEIGHTS}/")
        place = folder / value if inside else Path(value)
        if not (inside or place.is_absolute()):
            return {}
        if not place.exists():
            told = (
                "copy the whole folder" if inside else f"put it there, or change the path in {folder / 'recipe.yaml'}"
            )
            raise InvalidValueError(
                f"The run {shown(str(folder))} needs {shown(str(place))}, which is not there: {told}."
            )
        return {field: str(place.resolve())} if inside else {}

    return _changed(recipe, found)


def left(recipe: Recipe) -> list[str]:
    """What a run of the recipe needs besides its folder: models and files by their full paths."""
    paths: list[str] = []

    def noted(part: BaseModel, field: str, value: str) -> dict[str, Any]:
        paths.extend([value] if os.path.isabs(value) else [])
        return {}

    _changed(recipe, noted)
    return list(dict.fromkeys(paths))


def portable(recipe: Recipe) -> Recipe:
    """The recipe without the folders that its models lie in, which change no number."""
    return _changed(recipe, lambda part, field, value: {field: Path(value).name} if os.path.isabs(value) else {})


def _changed(part: M, change: Change) -> M:
    """A part with the parts in it, wherever they name weights."""
    updates: dict[str, Any] = {}
    for field, value in part:
        if (
            field in _PLACES
            and isinstance(value, str)
            and value
            and not (field == "source" and isinstance(part, Recipe))
        ):
            updates |= change(part, field, value)
        elif (new := _inner(value, change)) is not value:
            updates[field] = new
    return part.model_copy(update=updates) if updates else part


def _inner(value: Any, change: Change) -> Any:
    if isinstance(value, BaseModel):
        return _changed(value, change)
    if isinstance(value, tuple):
        new = tuple(_inner(v, change) for v in value)
        return new if any(a is not b for a, b in zip(new, value, strict=True)) else value
    return value
