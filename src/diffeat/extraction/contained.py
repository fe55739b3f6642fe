"""Weights that a recipe names by their place on a disk: taken into a run folder, or told.

Files of trained joins and of safetensors (a LoRA, another denoiser) travel as ``weights/DIGEST.safetensors``, or with
their description as ``weights/DIGEST/``; so does the folder of a ControlNet. Whole models and their parts, and files of
other forms, stay where they are: the run names them by their full path, and what is not there is told before anything
is loaded. Such a path may be changed in the run's ``recipe.yaml``; weights are told by what they hold
(:attr:`~diffeat.features.Source.fingerprint`).

A recipe on the hub, ``hub:OWNER/NAME``, is such a folder: ``recipe.yaml`` and, where it names trained weights,
``weights/``, as :func:`diffeat.interfaces.push_to_hub` writes it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from diffeat.backbones.folder import INDEX
from diffeat.backbones.hub import UnreachableError, fetch_folder
from diffeat.backbones.loading import local_place
from diffeat.backbones.named import ModelName
from diffeat.backbones.single_file import is_single_file
from diffeat.errors import InvalidValueError, ModelError, shown
from diffeat.extraction.joins.aggregation_files import CONFIG_FILE, WEIGHTS_FILE
from diffeat.extraction.reading import TrainedWeights
from diffeat.extraction.recipe import Recipe
from diffeat.geometry import file_digest
from diffeat.techniques.controlnet import ControlNet

WEIGHTS = "weights"
PREFIX, RECIPE = "hub:", "recipe.yaml"
#: Fields that name weights or other files: those that can travel, and those that stay where they are.
_MOVED, _STAYING = ("source", "path"), ("model", "caption_model", "condition", "captions")
_DEPTH, _DIGEST = "depth:", re.compile("[0-9a-f]{12}")
M = TypeVar("M", bound=BaseModel)
#: What the fields of a part that name weights become: (part, field, value) → changed fields.
Change = Callable[[BaseModel, str, str], dict[str, Any]]


def contained(recipe: Recipe) -> tuple[Recipe, dict[str, Path]]:
    """The recipe as it stands in a run folder, and the files that go there, by their names in it."""
    copies: dict[str, Path] = {}

    def moved(part: BaseModel, field: str, value: str) -> dict[str, Any]:
        place = Path(os.path.expanduser(value))
        if isinstance(part, ControlNet) and field == "model" and place.is_dir() and not _of_a_pipeline(place):
            name = f"{WEIGHTS}/{_folder_digest(place)}"
            copies.update({f"{name}/{file.relative_to(place).as_posix()}": file for file in _files(place)})
            return {field: name}
        file = place / (getattr(part, "file", None) or WEIGHTS_FILE) if place.is_dir() else place
        if field not in _MOVED or not file.is_file() or not _travels(part, file):
            return {field: _renamed(field, value, _in_full)}
        digest = file_digest(file)
        name = f"{WEIGHTS}/{digest[:12]}{file.suffix}"
        config = file.with_name(CONFIG_FILE)
        if isinstance(part, TrainedWeights) and config.is_file():
            name = f"{WEIGHTS}/{digest[:12]}/{file.name}"
            copies[f"{WEIGHTS}/{digest[:12]}/{CONFIG_FILE}"] = config
        copies[name] = file
        told = {"sha256": part.sha256 or digest} if isinstance(part, TrainedWeights) else {}
        return {field: name, "file": None, **told}

    return _changed(recipe, moved), copies


def _travels(part: BaseModel, file: Path) -> bool:
    """Whether a file is neither a whole model nor a part of one."""
    if isinstance(part, TrainedWeights):
        return True
    of_a_model = _of_a_pipeline(file.parent) or is_single_file(str(file))
    return file.suffix == ".safetensors" and not of_a_model and "subfolder" not in type(part).model_fields


def _of_a_pipeline(folder: Path) -> bool:
    return (folder.absolute().parent / INDEX).is_file()


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _folder_digest(folder: Path) -> str:
    """Of the files in a folder, by their names in it."""
    told = "\n".join(f"{file.relative_to(folder).as_posix()} {file_digest(file)}" for file in _files(folder))
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _in_full(name: str) -> str:
    place = local_place(name)
    return name if place is None else os.path.abspath(place)


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
    """The recipe of a run folder with the weights that lie there; refused if they are gone, or not what was copied."""

    def there(name: str) -> str:
        inside = name.startswith(f"{WEIGHTS}/")
        place = folder / name if inside else Path(name)
        if not (inside or place.is_absolute()):
            return name
        if not place.exists():
            told = (
                "copy the whole folder" if inside else f"put it there, or change the path in {folder / 'recipe.yaml'}"
            )
            raise InvalidValueError(
                f"The run {shown(str(folder))} needs {shown(str(place))}, which is not there: {told}."
            )
        if inside and not _is_itself(place):
            raise InvalidValueError(
                f"{shown(str(place))} is not the file that the run was trained with: it is damaged, or half copied. "
                "Copy the whole folder again."
            )
        return os.path.abspath(place) if inside else name  # links of the hub's cache lead to files without endings

    return _places_renamed(recipe, there)


def _is_itself(place: Path) -> bool:
    """Whether weights of a run hold what their name says; names that were given by hand say nothing."""
    named = [name for name in (place.stem, place.parent.name) if _DIGEST.fullmatch(name)]
    digest = _folder_digest(place) if place.is_dir() else file_digest(place)[:12]
    return not named or digest in named


def left(recipe: Recipe) -> list[str]:
    """What a run of the recipe needs besides its folder: models and files by their paths."""
    paths: dict[str, None] = {}

    def noted(name: str) -> str:
        if os.path.isabs(name) or name.startswith((".", "~")):
            paths[name] = None
        return name

    _places_renamed(recipe, noted)
    return list(paths)


def portable(recipe: Recipe) -> Recipe:
    """The recipe without the folders that its models lie in, which change no number."""

    def bare(name: str) -> str:
        return Path(name).name if os.path.isabs(name) else name

    return _places_renamed(recipe, bare)


def _places_renamed(recipe: Recipe, rename: Callable[[str], str]) -> Recipe:
    return _changed(recipe, lambda _, field, value: {field: _renamed(field, value, rename)})


def _renamed(field: str, value: str, rename: Callable[[str], str]) -> str:
    """A field's value with the places that it names renamed."""
    if field == "model":
        asked = ModelName.parse(value)
        return str(replace(asked, name=rename(asked.name), base=asked.base and rename(asked.base)))
    if field == "condition":
        return _DEPTH + rename(value.removeprefix(_DEPTH)) if value.startswith(_DEPTH) else value
    return rename(value)


def _changed(part: M, change: Change) -> M:
    """A part with the parts in it, wherever they name weights."""
    updates: dict[str, Any] = {}
    for field, value in part:
        words = field == "source" and isinstance(part, Recipe)
        if field in (*_MOVED, *_STAYING) and isinstance(value, (str, Path)) and str(value) and not words:
            updates |= change(part, field, str(value))
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


def published_folder(name: str, revision: str | None = None) -> Path:
    """The folder of a recipe's repository, fetched if need be.

    Raises:
        ModelError: It cannot be had, or holds no recipe.
    """
    try:
        folder = fetch_folder(name, [RECIPE, "weights/*"], revision)
    except UnreachableError as error:
        raise ModelError(
            f"The recipe {shown(name)} cannot be fetched from the hub ({error}). Check the name and the connection, "
            "log in if it is private, or give a local file."
        ) from None
    if not (folder / RECIPE).is_file():
        raise ModelError(f"The repository {shown(name)} holds no {RECIPE}, so it is none of diffeat's.")
    return folder


def _written(name: str) -> Recipe | None:
    if not name.startswith(PREFIX):
        return None
    asked = ModelName.parse(name.removeprefix(PREFIX))
    folder = published_folder(asked.name, asked.revision)
    return located(Recipe.load(folder / RECIPE), folder)


Recipe.FORMS.append(_written)
