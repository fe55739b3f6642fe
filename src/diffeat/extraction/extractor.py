"""A recipe of one diffusion model, run over pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from diffeat.ambient import neutral
from diffeat.backbones import Backbone
from diffeat.backbones.encoded import REMEMBERED_TEXTS
from diffeat.backbones.fingerprint import fingerprint, with_parts
from diffeat.backbones.optimise import optimise as make_faster
from diffeat.backbones.placement import placed
from diffeat.extraction.join import check_weights
from diffeat.extraction.joined import apart
from diffeat.extraction.joins.views import MixedViews
from diffeat.extraction.reading import Reading, names_by_step
from diffeat.extraction.recipe import Recipe
from diffeat.extraction.views import Views
from diffeat.features import Failed, FeatureMap, Group, Picture, Streams
from diffeat.trajectories import NoiseSource


class Extractor(Streams[FeatureMap]):
    """Features of pictures by a recipe.

    Args:
        recipe: What to extract.
        backbone: The model to extract from.
        batch_size: Rows of one denoiser call (one row is one picture at one timestep and draw); ``None`` chooses by
            memory.
        grad: Keep features attached to the denoiser's graph, to fine-tune it. Images are encoded without gradient.
        noise: Noise of your own, to reproduce others' numbers: a function, or a tensor ``(c, h, w)`` or
            ``(timesteps × draws, c, h, w)`` of the latent's shape (see :func:`diffeat.trajectories.own_noise`).

    Attributes:
        names: The maps of one step, before they are joined.
        steps: What tells the maps of one name apart in results (``name@step``): timesteps, or the save indices of a
            walk; in the recipe's order.

    Raises:
        UnknownNameError: An activation that the model does not have.
        InvalidValueError: The recipe cannot be run on this model.
        ModelError: Trained weights that the recipe names cannot be had or do not fit.
    """

    @neutral()
    def __init__(
        self,
        recipe: Reading,
        backbone: Backbone,
        *,
        batch_size: int | None = None,
        grad: bool = False,
        noise: NoiseSource | Tensor | None = None,
    ) -> None:
        self.recipe = recipe
        self.backbone = backbone
        self.batch_size = batch_size
        self._views = Views(recipe.view_recipes(), backbone, batch_size=batch_size, grad=grad, noise=noise, base=recipe)
        self.plan = self._views.plan
        self.names = list(dict.fromkeys(name for reader in self.plan.readers for name in reader.names))
        self.steps = recipe.trajectory.read_steps
        self._apart = recipe.fuse is not None and recipe.fuse.kind == "apart"
        mixes = recipe.views is not None and not self._apart
        self._mixture = MixedViews.of(recipe, backbone, self.names) if mixes else None

    @classmethod
    @neutral()
    def from_recipe(
        cls,
        recipe: str | Path | Recipe,
        model: str | Path | None = None,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        batch_size: int | None = None,
        grad: bool = False,
        noise: NoiseSource | Tensor | None = None,
        optimise: Sequence[str] = (),
    ) -> Extractor:
        """Load the recipe and the model it names.

        Args:
            recipe: Preset name, YAML path or recipe.
            model: Overrides the recipe's model (alias, hub id or local pipeline directory).
            device: Device of the model; the first accelerator if there is one, else the CPU.
            dtype: Precision of the model; ``None`` is bfloat16 on an accelerator and float32 on the CPU.
            optimise: Ways to run it faster (see :mod:`diffeat.backbones.optimise`).

        Raises:
            UnknownNameError: Unknown recipe or activation.
            ModelError: The model cannot be loaded.
        """
        reading = Reading.load(recipe)
        if model is not None:
            reading = reading.replace(model=str(model))
        check_weights(reading)
        backbone = load_backbone(reading, device, dtype)
        make_faster(backbone, optimise)
        return cls(reading, backbone, batch_size=batch_size, grad=grad, noise=noise)

    def of(self, recipe: Reading) -> Extractor:
        """Another recipe of the same model."""
        return Extractor(recipe, self.backbone, batch_size=self.batch_size)

    def settle_texts(self, texts: Collection[str | None]) -> bool:
        """Encode all that will be read of pictures, then free the text encoders: calls have their memory from then on.

        Args:
            texts: ``None`` stands for the recipe's own.

        Returns:
            Whether it was done: not where techniques have texts of their own, a trajectory walks,
            or there are more than are kept at a time (:data:`diffeat.backbones.encoded.REMEMBERED_TEXTS`).
        """
        own = self.plan.steers or self.recipe.trajectory.stepped
        if own or len(texts) >= REMEMBERED_TEXTS or not self.backbone.family.conditional:
            return False
        with self.session():  # which may read texts itself
            for recipe in (reader.recipe for reader in self.plan.readers):
                said = dict.fromkeys(recipe.prompt if text is None else text for text in texts)
                self.backbone.condition(list(said), None, **recipe.conditioning)
        self.backbone.drop_text_encoders()
        return True

    @property
    def times(self) -> tuple[float, ...]:
        """The timesteps (0…1000) at which each of ``names`` is read, in the recipe's order."""
        return self._views.times

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of the maps that a picture gets; empty where they are joined."""
        if self._apart:
            views = zip(self.recipe.view_labels, self.plan.readers, strict=True)
            steps = ((f"{label}/", r.names, r.recipe.trajectory.read_steps) for label, r in views)
            return tuple(label + name for label, names, read in steps for name in names_by_step(names, read))
        return () if self.recipe.fuse is not None else names_by_step(self.names, self.steps)

    @property
    def fingerprint(self) -> str:
        """Tells everything that changes the numbers, beside the recipe, from others."""
        network = None if self._mixture is None else self._mixture.network
        return with_parts(self._views.fingerprint, [] if network is None else [fingerprint(network)])

    @property
    def precision(self) -> str:
        """``bfloat16 (published in float32)``."""
        here, there = str(self.backbone.dtype).removeprefix("torch."), self.recipe.precision
        return here if there is None else f"{here}, as published" if there == here else f"{here} (published in {there})"

    def session(self) -> AbstractContextManager[object]:
        """Adapters are loaded once inside; may be entered again inside itself."""
        return self._views.session()

    def group(self, picture: Picture) -> Group:
        """Pictures of one model size share calls."""
        return self._views.group(picture)

    def read(self, pictures: Sequence[Picture]) -> Iterator[FeatureMap | Failed]:
        """Features of pictures of one group."""
        for views in self._views.read(pictures):
            yield views if isinstance(views, Failed) else self._mixed(views)

    def _mixed(self, views: list[FeatureMap]) -> FeatureMap:
        if self._apart:
            maps, note = apart(self.recipe.view_labels, views), {}
        elif self._mixture is not None:
            fused, note = self._mixture([list(view.activations.values()) for view in views])
            maps = {"fused": fused}
        else:
            return views[0]
        provenance = {
            **views[0].provenance,
            "recipe": self.recipe.name,
            "recipe_hash": self.recipe.hash,
            "views": [view.provenance["recipe"] for view in views],
            **note,
        }
        return replace(views[0], activations=maps, provenance=provenance)


def load_backbone(
    recipe: Reading, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
) -> Backbone:
    """The model that a recipe names, with its denoiser's other weights if it names some."""
    device, dtype = placed(device, dtype)
    backbone = Backbone.from_pretrained(recipe.model, device=device, dtype=dtype)
    if recipe.denoiser is not None:
        from diffeat.backbones.weights import load_denoiser_weights

        load_denoiser_weights(backbone, **recipe.denoiser.model_dump(exclude={"sha256"}))
    return backbone
