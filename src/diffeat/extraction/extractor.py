"""Runs a recipe over pictures with the fewest denoiser calls.

A picture is encoded once; all its timesteps and draws are rows of batched denoiser calls, which stop right after the
last activation that is needed. Rows of several pictures share a call. The number of rows of a call follows the memory
(see :mod:`diffeat.extraction.batching`) and is halved when the device runs out of it. Draws are averaged in float32
as they arrive, so nothing is stacked.

Features do not depend on the batching: noise is keyed by picture, timestep and draw, and rows do not see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffeat.__about__ import __version__
from diffeat.activations import Taps
from diffeat.backbones import Backbone, LatentPosterior
from diffeat.errors import DiffeatError, InvalidValueError, NonFiniteError
from diffeat.extraction.batching import RowBudget
from diffeat.extraction.calls import Calls
from diffeat.extraction.composed import Composer
from diffeat.extraction.joins.hyperfeatures import Hyperfeatures
from diffeat.extraction.modulated import ModulatedTaps
from diffeat.extraction.recipe import Recipe
from diffeat.extraction.stepped import SteppedReader
from diffeat.features import FeatureMap
from diffeat.features.picture import ImageLike, Picture, load_picture
from diffeat.geometry import Frame
from diffeat.refinement import concatenate, mean_of_maps
from diffeat.techniques.weights import fingerprint_with
from diffeat.trajectories import Row, forward_rows, noisy_latents

#: Called with the name of a picture that failed and why; returning goes on with the next picture.
OnError = Callable[[str, DiffeatError], None]


def raise_error(_name: str, error: DiffeatError) -> None:
    raise error


class Extractor:
    """Features of pictures by a recipe.

    Args:
        recipe: What to extract.
        backbone: The model to extract from.
        batch_size: Rows of one denoiser call (one row is one picture at one timestep and draw); ``None`` chooses by
            memory.
        grad: Keep features attached to the denoiser's graph, to fine-tune it. Images are encoded without gradient.
    """

    def __init__(
        self, recipe: Recipe, backbone: Backbone, *, batch_size: int | None = None, grad: bool = False
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise InvalidValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.recipe = recipe
        self.backbone = backbone
        self.grad = grad
        self.batch_size = batch_size
        self._budget = RowBudget(backbone, batch_size)
        self._calls = Calls(recipe, backbone)
        self._views = None
        if recipe.views is not None:
            from diffeat.extraction.amalgamated import AmalgamatedViews

            self._views = AmalgamatedViews(recipe, backbone, batch_size)
        self._rows = forward_rows(
            recipe.trajectory.timesteps, recipe.trajectory.draws, recipe.trajectory.kind == "noise"
        )
        # Resolves every name now, so that a misspelt activation is reported before any picture is read.
        self._composer = Composer(recipe, backbone)
        names = self._composer.names
        self.names = [str(n) for n in names]
        self._refined = ModulatedTaps(recipe, backbone, names) if recipe.refine else None
        self._taps = self._refined or Taps(backbone.denoiser, names, stop=not self._composer.clean)
        fused = recipe.fuse is not None and recipe.fuse.kind == "hyperfeatures"
        self._head = Hyperfeatures.of(recipe, backbone, self.names) if fused else None
        self._stepped = None
        if recipe.trajectory.stepped:
            assert isinstance(self._taps, Taps)
            self._stepped = SteppedReader(recipe, backbone, self._taps, self._head)

    @property
    def times(self) -> tuple[float, ...]:
        """The timesteps at which each of ``names`` is read, in the recipe's order."""
        return self._stepped.times if self._stepped else self.recipe.trajectory.timesteps

    @classmethod
    def from_recipe(
        cls,
        recipe: str | Path | Recipe,
        model: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        batch_size: int | None = None,
        grad: bool = False,
    ) -> Extractor:
        """Load the recipe and the model it names.

        Args:
            recipe: Preset name, YAML path or recipe.
            model: Overrides the recipe's model (alias, hub id or local pipeline directory).
            device: Device of the model; the first accelerator if there is one, else the CPU.
            dtype: Precision of the model; ``None`` is bfloat16 on an accelerator and float32 on the CPU.

        Raises:
            UnknownNameError: Unknown recipe or activation.
            ModelError: The model cannot be loaded.
        """
        loaded = Recipe.load(recipe)
        if model is not None:
            loaded = loaded.replace(model=str(model))
        device = torch.device(device) if device is not None else best_device()
        dtype = dtype or (torch.float32 if device.type == "cpu" else torch.bfloat16)
        backbone = Backbone.from_pretrained(loaded.model, device=device, dtype=dtype)
        if loaded.denoiser is not None:
            from diffeat.backbones.weights import load_denoiser_weights

            load_denoiser_weights(backbone, **loaded.denoiser.model_dump())
        return cls(loaded, backbone, batch_size=batch_size, grad=grad)

    @property
    def fingerprint(self) -> str:
        """Tells the model's weights from others, see :attr:`Backbone.fingerprint`."""
        return fingerprint_with(self.backbone.fingerprint, self.recipe.all_techniques)

    def extract(
        self, images: ImageLike | Sequence[ImageLike], prompts: str | Sequence[str | None] | None = None
    ) -> list[FeatureMap]:
        """Features of pictures, in their order.

        Args:
            images: A picture or several: paths, PIL images, arrays (see :func:`diffeat.geometry.open_image`).
            prompts: One text for all, or one per picture; goes through the recipe's template.

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
        *,
        on_error: OnError = raise_error,
    ) -> Iterator[FeatureMap]:
        """Like :meth:`extract`, one picture at a time and holding only a few in memory.

        Args:
            on_error: What to do with a picture that fails; raises by default.
        """
        if self._views is not None:
            yield from self._views.stream(images, prompts, on_error)
            return
        waiting: list[Picture] = []
        with self._calls.stream():
            for index, image in enumerate(images):
                try:
                    waiting.append(load_picture(image, self._text(prompts, index)))
                except DiffeatError as error:
                    on_error(image.name if isinstance(image, Picture) else str(image), error)
                    continue
                rows = self._stepped.rows if self._stepped else len(self._rows)
                if len(waiting) * rows >= self._budget.rows(self._frame(waiting[0]).model):
                    yield from self._extract_pictures(waiting, on_error)
                    waiting = []
            yield from self._extract_pictures(waiting, on_error)

    def _text(self, prompts: str | Sequence[str | None] | None, index: int) -> str:
        if prompts is None or isinstance(prompts, str):
            return self.recipe.text_for(prompts)
        if index >= len(prompts):
            raise InvalidValueError(
                f"There are more images than prompts ({len(prompts)}): give one per image, or one for all."
            )
        return self.recipe.text_for(prompts[index])

    def _frame(self, picture: Picture) -> Frame:
        frame = self.recipe.frame.frame(
            picture.image.size, multiple=self.backbone.multiple, default_size=self.backbone.default_size
        )
        if self.backbone.square_only and frame.model[0] != frame.model[1]:
            raise InvalidValueError(
                f"{self.backbone.family.name} takes square images only; the recipe's frame makes {picture.name} "
                f"{frame.model[0]}×{frame.model[1]}. Use frame mode 'squash' or 'pad' with one size."
            )
        return frame

    def _extract_pictures(self, pictures: list[Picture], on_error: OnError) -> Iterator[FeatureMap]:
        """Group consecutive pictures of one size, so that they share calls, and keep the order."""
        group: list[tuple[Picture, Frame]] = []
        for picture in pictures:
            try:
                frame = self._frame(picture)
                picture = self._stepped.accept(picture, frame) if self._stepped else picture
            except DiffeatError as error:
                on_error(picture.name, error)
                continue
            if group and group[-1][1].model != frame.model:
                yield from self._extract_group(group, on_error)
                group = []
            group.append((picture, frame))
        if group:
            yield from self._extract_group(group, on_error)

    def _extract_group(self, group: list[tuple[Picture, Frame]], on_error: OnError) -> Iterator[FeatureMap]:
        if self._stepped is not None:
            yield from self._finish_group(group, self._stepped.read(group, self._budget, self.grad), on_error)
            return
        size = group[0][1].model
        with torch.no_grad():
            pixels = torch.stack([frame.pixels(picture.image) for picture, frame in group])
            posterior = self.backbone.encode_images(pixels)
        jobs = [(i, row) for i in range(len(group)) for row in self._rows]
        means = _Means(self.recipe.trajectory.draws)

        noise = partial(self._noisy, posterior, group)
        with (
            self._calls.group([picture for picture, _ in group], pixels) as inputs,
            nullcontext() if self.grad else torch.no_grad(),
        ):

            def call(part: list[tuple[int, Row]]) -> None:
                arguments = inputs(part, noise)
                with self._taps:
                    means.add(part, self._composer.run(self._taps, part, arguments))

            self._budget.run(jobs, size, call)
        yield from self._finish_group(group, (means.of(i) for i in range(len(group))), on_error)

    def _finish_group(
        self, group: list[tuple[Picture, Frame]], found: Iterable[dict[tuple[float, str], Tensor]], on_error: OnError
    ) -> Iterator[FeatureMap]:
        for (picture, frame), maps in zip(group, found, strict=True):
            try:
                yield self._finish(picture, frame, maps)
            except NonFiniteError as error:
                on_error(picture.name, error)

    def _noisy(
        self, posterior: LatentPosterior, group: list[tuple[Picture, Frame]], part: list[tuple[int, Row]]
    ) -> Tensor:
        latents = []
        for i in dict.fromkeys(i for i, _ in part):
            one = LatentPosterior(posterior.mean[i : i + 1], posterior.std[i : i + 1])
            latents.append(
                noisy_latents(
                    self.backbone,
                    one,
                    [row for j, row in part if j == i],
                    image=group[i][0].key,
                    seed=self.recipe.seed,
                    sample_posterior=self.recipe.trajectory.latent == "sample",
                )
            )
        return torch.cat(latents)

    def _finish(self, picture: Picture, frame: Frame, maps: dict[tuple[float, str], Tensor]) -> FeatureMap:
        several = len(self.recipe.trajectory.read_steps) > 1
        maps = self._composer.finish(self._refined.finish(maps) if self._refined else maps)
        named = {f"{name}@{t:g}" if several else name: m for (t, name), m in maps.items()}
        if self._head is not None:
            named = self._head.join(maps, self.recipe.trajectory.read_steps)
        for name, feature in named.items():
            if not torch.isfinite(feature).all():
                raise NonFiniteError(_non_finite(name, picture.name, feature, self.backbone.dtype))
        fuse = self.recipe.fuse
        if fuse is not None and self._head is None:
            values = list(named.values())
            joined = (
                concatenate(values, fuse.grid, fuse.normalise)
                if fuse.kind == "concat"
                else mean_of_maps(values, fuse.grid)
            )
            named = {"fused": joined}
        return FeatureMap(
            activations=named,
            frame=frame,
            image=picture.name,
            digest=picture.digest,
            provenance=self._provenance(picture, frame),
        )

    def _provenance(self, picture: Picture, frame: Frame) -> dict[str, Any]:
        return {
            "recipe": self.recipe.name,
            "recipe_hash": self.recipe.hash,
            "model": self.backbone.name,
            "family": self.backbone.family.name,
            "prompt": picture.text,
            "model_size": list(frame.model),
            "dtype": str(self.backbone.dtype).removeprefix("torch."),
            "diffeat": __version__,
            **(self._refined.provenance() if self._refined else {}),
        }


def best_device() -> torch.device:
    """The first accelerator if there is one, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


class _Means:
    """Running means over the draws of every (picture, timestep, activation), in float32."""

    def __init__(self, draws: int) -> None:
        self._draws = draws
        self._sums: dict[int, dict[tuple[float, str], Tensor]] = {}
        self._dtypes: dict[tuple[float, str], torch.dtype] = {}

    def add(self, part: list[tuple[int, Row]], raw: dict[str, Tensor]) -> None:
        for k, (i, row) in enumerate(part):
            place = self._sums.setdefault(i, {})
            for name, values in raw.items():
                key = (row.timestep, name)
                self._dtypes[key] = values.dtype
                share = values[k].float() / self._draws
                place[key] = place[key] + share if key in place else share

    def of(self, picture: int) -> dict[tuple[float, str], Tensor]:
        """The means of one picture, in the precision of the model; forgets them."""
        return {key: value.to(self._dtypes[key]) for key, value in self._sums.pop(picture).items()}


def _non_finite(name: str, picture: str, feature: Tensor, dtype: torch.dtype) -> str:
    bad = int((~torch.isfinite(feature)).sum())
    cause = (
        "float16 overflows in many diffusion models; use bfloat16 or float32"
        if dtype is torch.float16
        else "the usual causes are damaged weights or a model that needs float32"
    )
    return f"Activation {name!r} of {picture} holds {bad} NaN or infinite values of {feature.numel()}: {cause}."
