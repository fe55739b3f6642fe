"""Many recipes over the same pictures with the fewest encodings, adapter switches and denoiser calls.

A *view* is a recipe: techniques, trajectory, activations and seed. Recipes of one model and frame share what they can:

* a picture is encoded once, a text once, a ControlNet's condition of a picture once;
* views with the same adapters are run together, so adapters are switched once per batch of pictures;
* views that differ in text, timestep, draw or seed alone are rows of the same denoiser calls;
* the same row is run once, whatever number of views reads it, with the union of their activations.

Every view gives what :class:`~diffeat.extraction.Extractor` gives for its recipe alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffeat.activations import Taps
from diffeat.backbones import Backbone, LatentPosterior
from diffeat.errors import DiffeatError, InvalidValueError
from diffeat.extraction.batching import RowBudget
from diffeat.extraction.calls import Job, noise_at
from diffeat.extraction.composed import wanted_activations
from diffeat.extraction.extractor import Extractor, OnError, raise_error
from diffeat.extraction.recipe import Recipe
from diffeat.features import FeatureMap
from diffeat.features.picture import ImageLike, Picture, load_picture
from diffeat.geometry import Frame
from diffeat.techniques import Combination, Prompt, Rows, Scene, Session
from diffeat.trajectories import Row, noisy_latents


class _Item(NamedTuple):
    picture: Picture
    frame: Frame
    texts: tuple[str, ...]
    """What the model reads, by view."""


Group = list[_Item]


@dataclass(frozen=True)
class Cost:
    """What a plan takes for a number of pictures.

    Attributes:
        encodings: Pictures encoded.
        rows: Rows of denoiser calls, steps before the reading included.
        switches: Changes of adapters, per batch of pictures.
        apart: Rows if every view were run alone.
    """

    encodings: int
    rows: int
    switches: int
    apart: int


@dataclass(frozen=True, eq=False)
class _Cluster:
    """Views that can share denoiser calls: the same adapters, ControlNets, steps and guidance."""

    combination: Combination
    views: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Slot:
    """Where rows of a call come from: a picture under one text, one seed and one kind of latent."""

    picture: int
    view: int
    seed: int
    sample: bool


class Views:
    """A plan over several recipes.

    Args:
        recipes: The views. They share model, frame and conditioning options.
        backbone: The model.
        batch_size: Rows of one denoiser call; chosen by memory if not given.
        base: The recipe whose views these are.

    Raises:
        InvalidValueError: If the recipes cannot be run together, or an attention map is read token by token under
            texts that differ from picture to picture (its channels would mean other words in every picture).
    """

    def __init__(
        self,
        recipes: Sequence[Recipe],
        backbone: Backbone,
        *,
        batch_size: int | None = None,
        base: Recipe | None = None,
    ) -> None:
        if not recipes:
            raise InvalidValueError("There are no views to run.")
        self.recipes = list(recipes)
        self.backbone = backbone
        for recipe in recipes:
            _check(recipe, recipes[0])
        self._own_texts = {"", *(r.text_for(None) for r in (*recipes, base) if r is not None)}
        self._budget = RowBudget(backbone, batch_size)
        self._extractors = [Extractor(recipe, backbone) for recipe in recipes]
        self._combinations = [Combination.of(recipe.techniques) for recipe in recipes]
        clusters: dict[str, _Cluster] = {}
        for i, combination in enumerate(self._combinations):
            shared = Combination(t for t in combination if not isinstance(t, Prompt))
            clusters.setdefault(shared.key, _Cluster(shared)).views.append(i)
        # The base first; views of equal adapters next to each other.
        order = sorted(clusters.values(), key=lambda c: (Combination(c.combination.layers).key, c.combination.key))
        self._clusters = order

    def cost(self, pictures: int = 1) -> Cost:
        """What the plan takes for a batch of pictures."""
        rows = 0.0
        for cluster in self._clusters:
            distinct = {
                (self._text_key(v), r.seed, r.trajectory.latent, r.trajectory.kind, t, d)
                for v in cluster.views
                for r in [self.recipes[v]]
                for t in r.trajectory.timesteps
                for d in range(r.trajectory.draws)
            }
            rows += len(distinct) * cluster.combination.calls()
        apart = sum(
            len(r.trajectory.timesteps) * r.trajectory.draws * c.calls()
            for r, c in zip(self.recipes, self._combinations, strict=True)
        )
        layers = {Combination(c.combination.layers).key for c in self._clusters}
        return Cost(pictures, round(rows * pictures), len(layers - {""}), round(apart * pictures))

    def extract(
        self, images: ImageLike | Sequence[ImageLike], prompts: str | Sequence[str | None] | None = None
    ) -> list[list[FeatureMap]]:
        """Features of pictures: for each picture one map set per view.

        Raises:
            ImageError: A picture cannot be read.
            NonFiniteError: Features hold NaN or infinity.
        """
        several = list(images) if isinstance(images, (list, tuple)) else [images]
        return list(self.stream(several, prompts))

    def stream(
        self,
        images: Iterable[ImageLike],
        prompts: str | Sequence[str | None] | None = None,
        on_error: OnError = raise_error,
    ) -> Iterator[list[FeatureMap]]:
        """Like :meth:`extract`, holding only a few pictures in memory.

        Args:
            on_error: What to do with a picture that cannot be read; raises by default.
        """
        group: Group = []
        with Session(self.backbone) as session:
            for index, image in enumerate(images):
                text = prompts if prompts is None or isinstance(prompts, str) else prompts[index]
                try:
                    picture = load_picture(image, text or "")
                    frame = self._extractors[0]._frame(picture)
                except DiffeatError as error:
                    on_error(image.name if isinstance(image, Picture) else str(image), error)
                    continue
                full = len(group) >= self._budget.rows(frame.model)
                if group and (full or group[0][1].model != frame.model):
                    yield from self._run(session, group)
                    group = []
                group.append(_Item(picture, frame, self._texts(image, text)))
            if group:
                yield from self._run(session, group)

    def _run(self, session: Session, group: Group) -> Iterator[list[FeatureMap]]:
        session.forget_pictures()
        with torch.no_grad():
            pixels = torch.stack([frame.pixels(picture.image) for picture, frame, _ in group])
            posterior = self.backbone.encode_images(pixels)
            sums: list[list[dict[tuple[float, str], Tensor]]] = [[{} for _ in self.recipes] for _ in group]
            for cluster in self._clusters:
                self._run_cluster(session, cluster, group, pixels, posterior, sums)
        for item, maps in zip(group, sums, strict=True):
            yield [
                extractor._finish(_with_text(item, view), item.frame, self._in_order(view, found))
                for view, (extractor, found) in enumerate(zip(self._extractors, maps, strict=True))
            ]

    def _run_cluster(
        self, session: Session, cluster: _Cluster, group: Group, pixels: Tensor, posterior: LatentPosterior, sums: Any
    ) -> None:
        slots: dict[tuple[int, str, int, bool], int] = {}
        sources: list[_Slot] = []
        readers: dict[Job, list[int]] = {}
        for v in cluster.views:
            recipe, path = self.recipes[v], self.recipes[v].trajectory
            for i in range(len(group)):
                at = (i, self._text_key(v), recipe.seed, path.latent == "sample")
                if at not in slots:
                    slots[at] = len(sources)
                    sources.append(_Slot(i, v, recipe.seed, path.latent == "sample"))
                for t in path.timesteps:
                    for d in range(path.draws):
                        readers.setdefault((slots[at], Row(float(t), d, path.kind == "noise")), []).append(v)
        taps = self._taps(cluster)
        rows = self._rows(session, cluster, group, pixels, sources)

        def noise(part: list[Job]) -> Tensor:
            found = []
            for slot, row in part:
                source = sources[slot]
                i = source.picture
                one = LatentPosterior(posterior.mean[i : i + 1], posterior.std[i : i + 1])
                found.append(
                    noisy_latents(
                        self.backbone, one, [row], image=group[i][0].key, seed=source.seed,
                        sample_posterior=source.sample,
                    )
                )  # fmt: skip
            return torch.cat(found)

        with session.use(cluster.combination) as steered:

            def call(part: list[Job]) -> None:
                of_part = rows.take([slot for slot, _ in part])
                times = [row.timestep for _, row in part]
                noisy = steered.arrive(times, noise_at(part, noise), of_part)
                inputs = steered.inputs(noisy, torch.tensor(times), of_part)
                with taps:
                    raw = taps.run(**inputs)
                for k, job in enumerate(part):
                    for v in readers[job]:
                        self._add(sums[sources[job[0]].picture][v], v, job[1], raw, k)

            self._budget.run(list(readers), group[0][1].model, call)

    def _add(self, place: dict[tuple[float, str], Tensor], view: int, row: Row, raw: dict[str, Tensor], k: int) -> None:
        path = self.recipes[view].trajectory
        for name in self._extractors[view].names:
            values = raw[name][k]
            share = values.float() / path.draws
            key = (row.timestep, name)
            total = place[key].float() + share if key in place else share
            place[key] = total.to(values.dtype) if row.draw == path.draws - 1 else total

    def _in_order(self, view: int, maps: dict[tuple[float, str], Tensor]) -> dict[tuple[float, str], Tensor]:
        times, names = self.recipes[view].trajectory.timesteps, self._extractors[view].names
        return {(float(t), name): maps[float(t), name] for t in times for name in dict.fromkeys(names)}

    def _rows(self, session: Session, cluster: _Cluster, group: Group, pixels: Tensor, sources: list[_Slot]) -> Rows:
        """One row per slot."""
        prepared: dict[str, Rows] = {}
        for v in dict.fromkeys(source.view for source in sources):
            if self._text_key(v) in prepared:
                continue
            scenes = [
                Scene(item.picture.key, x, item.texts[v], item.picture.name)
                for item, x in zip(group, pixels, strict=True)
            ]
            with session.use(self._combinations[v]) as steered:
                prepared[self._text_key(v)] = steered.prepare(scenes, **self.recipes[v].conditioning)
        names = list(prepared)
        everything = Rows.join([prepared[name] for name in names])
        return everything.take([names.index(self._text_key(s.view)) * len(group) + s.picture for s in sources])

    def _taps(self, cluster: _Cluster) -> Taps:
        wanted = {str(w): w for v in cluster.views for w in wanted_activations(self.recipes[v], self.backbone)}
        return Taps(self.backbone.denoiser, list(wanted.values()), stop=True)

    def _text_key(self, view: int) -> str:
        """Equal for views that tell the model the same about every picture."""
        recipe, prompt = self.recipes[view], self._combinations[view].one(Prompt)
        return repr((prompt.key if prompt else None, recipe.prompt, recipe.template))

    def _texts(self, image: ImageLike, text: str | None) -> tuple[str, ...]:
        """A caller's text goes through every view's template; the text of an open picture is final, unless it is only
        the recipes' own."""
        if isinstance(image, Picture):
            return tuple(r.text_for(None) if image.text in self._own_texts else image.text for r in self.recipes)
        return tuple(recipe.text_for(text) for recipe in self.recipes)


def _with_text(item: _Item, view: int) -> Picture:
    p = item.picture
    return Picture(p.name, p.image, p.digest, p.key, item.texts[view])


def _check(recipe: Recipe, first: Recipe) -> None:
    for name in ("model", "frame", "denoiser", "conditioning"):
        one, two = getattr(first, name), getattr(recipe, name)
        if one != two:
            raise InvalidValueError(
                f"Views share their {name}; {first.name} has {one!r} and {recipe.name} has {two!r}."
            )
    if recipe.refine or recipe.trajectory.kind not in ("noise", "clean"):
        raise InvalidValueError(f"{recipe.name} is refined or stepped; extract it on its own.")
    prompt = Combination.of(recipe.techniques).one(Prompt)
    if prompt is not None and prompt.per_image and any(not isinstance(a, str) for a in recipe.activations):
        raise InvalidValueError(
            f"{recipe.name} reads attention maps token by token under a text per picture: a channel would stand for "
            "another word in every picture. Use one fixed text for attention maps."
        )
