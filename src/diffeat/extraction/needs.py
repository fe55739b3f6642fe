"""What a recipe needs of the hub: models, other weights for them, and what its techniques and trained joins bring."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from diffeat.backbones.files import PICKLED
from diffeat.backbones.loading import local_place
from diffeat.backbones.named import ModelName
from diffeat.backbones.single_file import base_of, is_single_file
from diffeat.extraction.joins.aggregation_files import files_of
from diffeat.extraction.joins.convolution import WEIGHTS_FILE
from diffeat.extraction.kinds import Joined, Vision
from diffeat.extraction.reading import Reading, Weights
from diffeat.extraction.recipe import Recipe
from diffeat.techniques.other_weights import OtherWeights


@dataclass(frozen=True)
class Need:
    """A model as recipes write it, or (in) a repository.

    Attributes:
        file: In the repository, or a folder there; ``None`` for what is used of all of it.
        weights: Whether those of a model are needed, or its configurations and tokenizers alone.
    """

    name: str
    file: str | None = None
    revision: str | None = None
    weights: bool = True

    @property
    def is_file(self) -> bool:
        """Whether it is a file by its name, which only its owner can put here."""
        name = ModelName.parse(self.name).name
        return self.file is None and PurePosixPath(name).suffix in (".safetensors", ".gguf", *PICKLED)


def needs(recipe: Recipe) -> list[Need]:
    """What a recipe needs, each thing once; files on this disk are not listed.

    Raises:
        ModelError: A model in one file does not tell its base.

    Example:
        >>> [need.name for need in needs(Recipe.load("cleandift-sd21"))]
        ['sd21', 'CompVis/cleandift']
        >>> needs(Recipe.load("hyperfeatures-sd15-one-step"))[1].file
        'weights/aggregation_network_one-step.pt'
    """
    return list(dict.fromkeys(_needs(recipe)))


def _needs(recipe: Recipe) -> Iterator[Need]:
    if isinstance(recipe, Joined):
        for part in recipe.parts:
            yield from _needs(part)
        if recipe.network is not None:
            yield from _of_weights(recipe.network, [recipe.network.file or WEIGHTS_FILE])
    elif isinstance(recipe, Vision):
        yield from _of_model(recipe.model)
    elif isinstance(recipe, Reading):
        yield from _of_model(recipe.model)
        trained = None if recipe.fuse is None else recipe.fuse.weights
        if trained is not None:
            yield from _of_weights(trained, files_of(trained))
        for view in recipe.view_recipes():
            yield from _of_reading(view)


def _of_reading(recipe: Reading) -> Iterator[Need]:
    if recipe.denoiser is not None:
        yield from _of_weights(recipe.denoiser, [recipe.denoiser.file])
    for technique in recipe.techniques or ():
        if isinstance(technique, OtherWeights) and technique.model is not None:
            yield from _of_model(technique.model, technique.revision)
            continue
        for place in technique.files():
            yield from _of_place(place, getattr(technique, "revision", None))


def _of_model(text: str, revision: str | None = None) -> Iterator[Need]:
    """A model that is not on this disk; of one in a file also its base."""
    asked = ModelName.parse(text)
    if local_place(asked.name) is None:
        yield Need(text, revision=revision)
    base = asked.base or (base_of(asked.name) if is_single_file(asked.name) else None)
    if base is not None and local_place(base) is None:
        yield Need(base, weights=asked.name.endswith(".gguf"))


def _of_weights(weights: Weights, files: Sequence[str | None]) -> Iterator[Need]:
    if not os.path.exists(os.path.expanduser(weights.source)):
        need = Need(weights.source)
        yield from [need] if need.is_file else [Need(weights.source, file, weights.revision) for file in files]


def _of_place(place: str, revision: str | None) -> Iterator[Need]:
    """A file or folder on a disk, or one in a repository as ``owner/name/FILE``."""
    repository = "/".join(PurePosixPath(place).parts[:2])
    if any(os.path.exists(os.path.expanduser(path)) for path in (place, repository)):
        return
    need = Need(place)
    inside = place.removeprefix(repository).strip("/")
    alone = os.path.isabs(place) or place.startswith((".", "~")) or (need.is_file and not inside)
    yield need if alone else Need(repository, inside or None, revision)
