"""Recipes on the hub: ``hub:OWNER/NAME``, with the trained weights that lie beside them.

A repository holds ``recipe.yaml`` and, where the recipe names trained weights, ``weights/``, as
:func:`diffeat.interfaces.push_to_hub` writes it. A mirror folder goes before the cache and the hub
(:mod:`diffeat.backbones.hub`).
"""

from __future__ import annotations

from pathlib import Path

from diffeat.backbones.hub import UnreachableError, fetch_folder
from diffeat.backbones.named import ModelName
from diffeat.errors import ModelError, shown
from diffeat.extraction.contained import located
from diffeat.extraction.recipe import Recipe

PREFIX, RECIPE = "hub:", "recipe.yaml"


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
