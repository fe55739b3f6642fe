"""Recipes with views: several readings of one picture become one map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeat.backbones import Backbone
from diffeat.errors import DiffeatError, InvalidValueError, ModelError
from diffeat.extraction.joins.amalgamation import Amalgamation, AmalgamationConfig
from diffeat.extraction.joins.amalgamation_files import load_amalgamation
from diffeat.extraction.recipe import Recipe
from diffeat.extraction.view_spec import view_recipes
from diffeat.extraction.views import Views
from diffeat.features import FeatureMap
from diffeat.geometry import file_digest
from diffeat.refinement import concatenate
from diffeat.refinement.maps import largest_grid

FUSED = "amalgamated"


class AmalgamatedViews:
    """Runs the views of a recipe and mixes them.

    Args:
        network: In place of the one that the recipe names.

    Raises:
        InvalidValueError: If the recipe names no trained weights where they are needed.
        ModelError: If the weights are others than those the recipe was written with.
    """

    def __init__(
        self, recipe: Recipe, backbone: Backbone, batch_size: int | None = None, network: Amalgamation | None = None
    ) -> None:
        assert recipe.views is not None
        assert recipe.fuse is not None
        self.recipe = recipe
        self.plan = Views(view_recipes(recipe), backbone, batch_size=batch_size, base=recipe)
        self._appended = [view.append for view in recipe.views]
        self._network = network
        if network is None and recipe.fuse.kind == "amalgamation":
            self._network = _trained(recipe)

    def stream(self, images: Any, prompts: Any, on_error: Any) -> Iterator[FeatureMap]:
        """One map per picture."""
        for found in self.plan.stream(images, prompts, on_error):
            try:
                yield self._join(found)
            except DiffeatError as error:
                on_error(found[0].image, error)

    def stacks(self, found: Sequence[FeatureMap]) -> tuple[Tensor, Tensor | None]:
        """Views ``(v, c, h, w)`` and appended channels ``(a, h, w)`` of one picture, on one grid.

        Raises:
            InvalidValueError: If views differ in channels.
        """
        assert self.recipe.fuse is not None
        grid = self.recipe.fuse.grid or largest_grid([m for f in found for m in f.activations.values()])
        maps = [concatenate(list(f.activations.values()), grid).float() for f in found]
        mixed = [m for m, appended in zip(maps, self._appended, strict=True) if not appended]
        extra = [m for m, appended in zip(maps, self._appended, strict=True) if appended]
        if self.recipe.fuse.normalise:
            mixed = [F.normalize(m, dim=0) for m in mixed]
        if len({m.shape[0] for m in mixed}) > 1 and self.recipe.fuse.kind != "concat":
            raise InvalidValueError(
                f"Views are mixed channel by channel but have {[m.shape[0] for m in mixed]} channels. Give them the "
                "same activations, or mark the odd one 'append: true'."
            )
        return torch.stack(mixed), torch.cat(extra) if extra else None

    def _join(self, found: list[FeatureMap]) -> FeatureMap:
        views, extra = self.stacks(found)
        network = self._network or _plain(self.recipe, views, extra)
        with torch.no_grad():
            fused, weights = network(views[None], None if extra is None else extra[None])
        first = found[0]
        share = weights.mean(dim=(0, 1, 3)).tolist() if network.config.kind in ("scalar", "channel") else None
        provenance = {
            **first.provenance,
            "recipe": self.recipe.name,
            "recipe_hash": self.recipe.hash,
            "views": [f.provenance["recipe"] for f in found],
            **({"view_weights": [round(w, 4) for w in share]} if share else {}),
        }
        return FeatureMap({FUSED: fused[0]}, first.frame, first.image, first.digest, provenance)


def _plain(recipe: Recipe, views: Tensor, extra: Tensor | None) -> Amalgamation:
    assert recipe.fuse is not None
    attention = 0 if extra is None else extra.shape[0]
    return Amalgamation(
        AmalgamationConfig(views.shape[1], len(views), kind=recipe.fuse.kind, attention=attention)  # type: ignore[arg-type]
    )


def _trained(recipe: Recipe) -> Amalgamation:
    assert recipe.fuse is not None
    weights = recipe.fuse.weights
    if weights is None:
        raise InvalidValueError(
            f"Recipe {recipe.name!r} mixes views by 'amalgamation' but names no trained weights (fuse.weights). Train "
            "them with diffeat.training.train_on_pairs, or use fuse 'concat' or 'mean'."
        )
    path = Path(weights.source) / weights.file if weights.file else Path(weights.source)
    if weights.sha256 is not None and path.is_file() and file_digest(path) != weights.sha256:
        raise ModelError(f"{path} is not the file that recipe {recipe.name!r} was written with.")
    return load_amalgamation(path)
