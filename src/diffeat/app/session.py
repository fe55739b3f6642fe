"""What a running server knows: the model, the recipes on offer, the pictures, and what was computed from them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

from fastapi import Request

from diffeat.app.asked import Asked
from diffeat.app.bounds import check_reading, rows_of
from diffeat.app.cache import Cache
from diffeat.app.gallery import Entry, Gallery
from diffeat.app.line import Line
from diffeat.extraction import Extractor, Joined, JoinedSource, Reading, Recipe, load_source, preset_names
from diffeat.features import FeatureMap, Source
from diffeat.tasks.correspondence import Lattice, Matching, Target

T = TypeVar("T")

#: Bytes of features (and of what is made of them), and of pictures prepared to be searched, that are kept.
FEATURES, TARGETS = 1 << 30, 1 << 29
#: Pixels at which similarity is shown; a larger picture is read at a smaller size, the best place still at its own.
SHOWN = 1_000_000
#: Recipes whose sources are kept ready.
_SOURCES = 48


@dataclass(frozen=True)
class Known:
    """Features that were computed.

    Attributes:
        recipe: By which recipe.
        features: On the CPU.
        seconds: That it took.
        rows: Of denoiser calls that it took; none without a denoiser.
    """

    recipe: Recipe
    features: FeatureMap
    seconds: float
    rows: int


class Session:
    """
    Args:
        reading: What is read at first; its model is the one on the map.
        gallery: The pictures.
        others: Further recipes, which are offered to be compared.
        computing: ``device``, ``dtype`` and ``batch_size`` of :func:`diffeat.load_source`.

    Attributes:
        offered: Recipes that the browser can ask for, by name.
        line: Where computations wait.
        quick: Where what is made of features that are there waits, so that it is not behind those.
    """

    def __init__(
        self,
        reading: Reading,
        gallery: Gallery,
        others: Sequence[Recipe] = (),
        computing: Mapping[str, Any] | None = None,
    ) -> None:
        self.gallery = gallery
        self.line, self.quick = Line(), Line()
        self.offered: dict[str, Recipe] = {}
        for recipe in (reading, *others):
            alike = sum(name.partition(" #")[0] == recipe.name for name in self.offered)
            self.offered[f"{recipe.name} #{alike + 1}" if alike else recipe.name] = recipe
        for recipe in _presets(reading.model):
            self.offered.setdefault(recipe.name, recipe)
        self._computing = dict(computing or {})
        self._models: dict[str, Extractor] = {}
        self._sources: dict[str, Source[FeatureMap]] = {}
        self._known: Cache[Any] = Cache(FEATURES)
        self._targets: Cache[Target] = Cache(TARGETS)
        self._loading = threading.RLock()

    @property
    def extractor(self) -> Extractor:
        """Of the recipe that is read at first; loads the model where it is not yet."""
        first = next(iter(self.offered.values()))
        return cast(Extractor, self.source(first))

    def lend(self, extractor: Extractor) -> None:
        """Have recipes of a model run on one that is loaded already."""
        self._models[f"{extractor.recipe.model} {extractor.recipe.denoiser}"] = extractor

    def source(self, recipe: Recipe) -> Source[FeatureMap]:
        """What runs a recipe; recipes of one model share it."""
        with self._loading:
            source = self._sources.pop(recipe.hash, None) or self._loaded(recipe)
            self._sources[recipe.hash] = source
            if len(self._sources) > _SOURCES:
                del self._sources[next(iter(self._sources))]
            return source

    def _loaded(self, recipe: Recipe) -> Source[FeatureMap]:
        if isinstance(recipe, Joined):
            return JoinedSource(recipe, [self.source(part) for part in recipe.parts])
        if not isinstance(recipe, Reading):
            how = {name: value for name, value in self._computing.items() if name != "batch_size"}
            return load_source(recipe, **how)
        model = f"{recipe.model} {recipe.denoiser}"
        if model not in self._models:
            self._models[model] = Extractor.from_recipe(recipe, **self._computing)
        return self._models[model].of(recipe)

    async def read(self, request: Request, asked: Asked, ids: Sequence[str]) -> list[Known]:
        """Features of pictures: those that are known, and the others computed in line.

        Raises:
            DiffeatError: What is asked for is not there or not possible, the line is full, or the browser left.
        """
        recipe = asked.of(self.offered)
        entries = [self.gallery[id] for id in ids]
        unknown = {entry.id: entry for entry in entries if self._known.get(_key(recipe, entry)) is None}
        if unknown:
            await self.line.run(request, partial(self.check, recipe, list(unknown.values())))
        return [
            await self.once(
                request, _key(recipe, entry), partial(self._read, recipe, entry), lambda k: k.features.bytes
            )
            for entry in entries
        ]

    def check(self, recipe: Recipe, entries: Sequence[Entry]) -> Source[FeatureMap]:
        """What runs a recipe. To be called in line.

        Raises:
            InvalidValueError: Reading all these pictures is more than a request may take.
        """
        source = self.source(recipe)
        check_reading(source, [self.gallery.size(entry) for entry in entries])
        return source

    async def once(self, request: Request, key: Hashable, work: Callable[[], T], size: Callable[[T], int]) -> T:
        """What ``work`` gives, computed in line unless it is known by its key."""

        def unless_known() -> T:  # which another request of the line may have made it
            known = self._known.get(key)
            if known is None:
                known = work()
                self._known.put(key, known, size(known))
            return known

        known = self._known.get(key)
        return known if known is not None else await self.line.run(request, unless_known)

    def is_known(self, asked: Asked, id: str) -> bool:
        """Whether features are there without being computed."""
        return self._known.get(_key(asked.of(self.offered), self.gallery[id])) is not None

    def _read(self, recipe: Recipe, entry: Entry) -> Known:
        source = self.source(recipe)
        started = time.perf_counter()
        features = source.extract(entry.picture())[0]
        seconds = time.perf_counter() - started
        features = replace(features, activations={n: m.detach().cpu() for n, m in features.activations.items()})
        return Known(recipe, features, seconds, rows_of(source))

    def target(self, known: Known, id: str, map: str | None, *, most: int | None = None) -> Target:
        """Features ready to be searched.

        Args:
            id: Of their picture.
            map: Which, where there are several.
            most: Pixels that are compared, where these are fewer than the picture's own.
        """
        original = known.features.frame.original
        size = original if most is None else shown_size(original, most)
        key = (_key(known.recipe, self.gallery[id]), map, size)
        target = self._targets.get(key)
        if target is None:
            target = Target(known.features, None if size == original else Matching(Lattice(size)), map)
            tensor = known.features.tensor if map is None else known.features[map]
            self._targets.put(key, target, 4 * size[0] * size[1] + 4 * tensor.numel())
        return target

    def close(self) -> None:
        """Stop what runs."""
        self.line.close()
        self.quick.close()


def shown_size(original: tuple[int, int], most: int = SHOWN) -> tuple[int, int]:
    """(width, height) at which what is laid over a picture is made, of ``most`` pixels.

    Example:
        >>> shown_size((640, 480)), shown_size((4000, 3000))
        ((640, 480), (1155, 866))
    """
    width, height = original
    scale = min(1.0, (most / (width * height)) ** 0.5)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _key(recipe: Recipe, entry: Entry) -> tuple[str, str, str | None]:
    return recipe.hash, entry.id, entry.where.stamp()


def _presets(model: str) -> list[Recipe]:
    """Recipes that need nothing that is not here: those of the model and of no model, and of the embedded ones. Views
    are left out, which take adapters of their own."""
    from diffeat import zoo

    here = {model, *zoo.names()}
    presets = [Recipe.load(name) for name in preset_names()]
    of_models = [
        recipe
        for recipe in presets
        if all(isinstance(part, Reading) and part.model in here and not part.views for part in recipe.single())
    ]
    return [*of_models, Recipe.load("baseline:rgb"), Recipe.load("baseline:daisy")]
