"""What a recipe needs of the hub: models, other weights for them, and what its techniques bring."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from diffeat.extraction.kinds import Vision
from diffeat.extraction.reading import Reading
from diffeat.extraction.recipe import Recipe


@dataclass(frozen=True)
class Need:
    """A model or a file.

    Attributes:
        name: Of a model, as recipes write it, or the id of a repository.
        file: In the repository; ``None`` for what is used of all of it.
        revision: Of the repository.
    """

    name: str
    file: str | None = None
    revision: str | None = None


def needs(recipe: Recipe) -> list[Need]:
    """What a recipe needs, each thing once; files on this disk are not listed.

    Example:
        >>> [need.name for need in needs(Recipe.load("cleandift-sd21"))]
        ['sd21', 'CompVis/cleandift']
    """
    return list(dict.fromkeys(_needs(recipe)))


def _needs(recipe: Recipe) -> Iterator[Need]:
    for part in recipe.single():
        if isinstance(part, Vision):
            yield Need(part.model)
        if not isinstance(part, Reading):
            continue
        yield Need(part.model)
        for view in part.view_recipes() if part.views else (part,):
            if view.denoiser is not None and not os.path.exists(view.denoiser.source):
                yield Need(view.denoiser.source, view.denoiser.file, view.denoiser.revision)
            for technique in view.techniques or ():
                for place in technique.files():
                    owner, _, rest = place.partition("/")
                    repository, _, file = rest.partition("/")
                    if not os.path.exists(place):
                        yield Need(f"{owner}/{repository}" if repository else owner, file or None)
