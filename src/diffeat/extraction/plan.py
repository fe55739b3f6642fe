"""What has to be read for one recipe or several, in as few denoiser calls as possible: pure data, no tensors.

Recipes of one model and frame share what they can:

* a picture is encoded once, a text once, a ControlNet's condition of a picture once;
* recipes with the same adapters are run together, so adapters are switched once per batch of pictures;
* recipes that differ in text, timestep, draw or seed alone are rows of the same denoiser calls;
* the same row is run once, whatever number of recipes reads it, with the union of their activations.

Each recipe gets what it would get alone: a single recipe is a plan of one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from diffeat.activations import MapRequest
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.extraction.reading import Reading
from diffeat.extraction.reduce import Channels, Reducer, reducers_of
from diffeat.techniques import Combination, Prompt
from diffeat.trajectories import Row


class Lane(NamedTuple):
    """Rows that differ in timestep and draw alone; their noise has a seed.

    Attributes:
        text: Equal for recipes that tell the model the same about every picture.
        sample: Whether the latent is a draw of the posterior rather than its mean.
    """

    text: Hashable
    seed: int
    sample: bool


@dataclass(frozen=True)
class Reader:
    """One recipe of a plan: its techniques, what makes its maps, where it reads, and in which rows of a picture."""

    recipe: Reading
    combination: Combination
    reducers: tuple[Reducer, ...]
    rows: tuple[Row, ...]
    lane: Lane

    @property
    def names(self) -> tuple[str, ...]:
        """Of its maps."""
        return tuple(reducer.name for reducer in self.reducers)


@dataclass(frozen=True)
class Cluster:
    """Recipes that can share denoiser calls: the same adapters, ControlNets, steps and guidance.

    Attributes:
        readers: Their numbers in the plan.
        wants: What taps bring.
        predicts: Whether the denoiser's prediction is wanted, so that the forward pass runs to its end.
    """

    combination: Combination
    readers: tuple[int, ...]
    wants: tuple[str | MapRequest, ...]
    predicts: bool


@dataclass(frozen=True)
class Cost:
    """What a plan takes for a number of pictures.

    Attributes:
        encodings: Pictures encoded.
        rows: Rows of denoiser calls, steps before the reading included.
        switches: Changes of adapters, per batch of pictures.
        apart: Rows if every recipe were run alone.
    """

    encodings: int
    rows: int
    switches: int
    apart: int


@dataclass(frozen=True)
class Plan:
    """A plan over recipes of one model.

    Attributes:
        readers: The recipes, in their order.
        clusters: Those that run together; the base first, equal adapters next to each other.
    """

    readers: tuple[Reader, ...]
    clusters: tuple[Cluster, ...]

    @classmethod
    def of(cls, recipes: Sequence[Reading], backbone: Backbone, massive: Channels | None = None) -> Plan:
        """The plan of recipes that share model, frame and conditioning options.

        Args:
            recipes: One or several.
            backbone: Tells what its activations are; every name is resolved now, before any picture is read.
            massive: The channels to discard where a recipe says ``detected``.

        Raises:
            UnknownNameError: An activation that the model does not have.
            InvalidValueError: The recipes cannot be run together, or an attention map is read token by token under
                texts that differ from picture to picture (its channels would mean other words in every picture).
        """
        if not recipes:
            raise InvalidValueError("There are no views to run.")
        readers = []
        for recipe in recipes:
            _check(recipe, recipes[0], alone=len(recipes) == 1)
            combination = Combination.of(recipe.techniques)
            prompt = combination.one(Prompt)
            path = recipe.trajectory
            text = (prompt.key if prompt is not None else None, recipe.prompt, recipe.template)
            rows = [Row(float(t), d, path.kind == "noise") for t in path.timesteps for d in range(path.draws)]
            reducers = tuple(reducers_of(recipe, backbone, massive))
            lane = Lane(text, recipe.seed, path.latent == "sample")
            readers.append(Reader(recipe, combination, reducers, tuple(rows), lane))
        return cls(tuple(readers), tuple(_clusters(readers)))

    @property
    def steers(self) -> bool:
        """Whether any technique takes part."""
        return any(len(reader.combination) for reader in self.readers)

    @property
    def rows(self) -> int:
        """Rows of denoiser calls that one picture takes in its largest cluster, none of them twice."""
        return max(len(_distinct(self.readers[i] for i in cluster.readers)) for cluster in self.clusters)

    def cost(self, pictures: int = 1) -> Cost:
        """What the plan takes for a batch of pictures."""
        rows = sum(len(_distinct(self.readers[i] for i in c.readers)) * c.combination.calls() for c in self.clusters)
        apart = sum(len(reader.rows) * reader.combination.calls() for reader in self.readers)
        layers = {Combination(c.combination.layers).key for c in self.clusters}
        return Cost(pictures, round(rows * pictures), len(layers - {""}), round(apart * pictures))


def _distinct(readers: Iterable[Reader]) -> set[tuple[Lane, Row]]:
    return {(reader.lane, row) for reader in readers for row in reader.rows}


def _clusters(readers: Sequence[Reader]) -> list[Cluster]:
    members: dict[str, tuple[Combination, list[int]]] = {}
    for i, reader in enumerate(readers):
        shared = Combination(t for t in reader.combination if not isinstance(t, Prompt))
        members.setdefault(shared.key, (shared, []))[1].append(i)
    clusters = []
    for combination, numbers in members.values():
        reducers = [reducer for i in numbers for reducer in readers[i].reducers]
        wants = {str(want): want for reducer in reducers for want in reducer.wants}
        predicts = any(reducer.predicts for reducer in reducers)
        clusters.append(Cluster(combination, tuple(numbers), tuple(wants.values()), predicts))
    return sorted(clusters, key=lambda c: (Combination(c.combination.layers).key, c.combination.key))


def _check(recipe: Reading, first: Reading, alone: bool) -> None:
    for name in ("model", "frame", "denoiser", "conditioning"):
        one, two = getattr(first, name), getattr(recipe, name)
        if one != two:
            raise InvalidValueError(
                f"Views share their {name}; {first.name} has {one!r} and {recipe.name} has {two!r}."
            )
    if (recipe.refine or recipe.trajectory.stepped) and not alone:
        raise InvalidValueError(f"{recipe.name} is refined or stepped; extract it on its own.")
    prompt = Combination.of(recipe.techniques).one(Prompt)
    if prompt is not None and prompt.per_image and any(not isinstance(a, str) for a in recipe.activations):
        raise InvalidValueError(
            f"{recipe.name} reads attention maps token by token under a text per picture: a channel would stand for "
            "another word in every picture. Use one fixed text for attention maps."
        )
