"""How the maps of one picture become one: the joins that a recipe's ``fuse`` can name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from torch import Tensor, nn

from diffeat.activations import Catalogue
from diffeat.backbones import Backbone
from diffeat.backbones.weights import denoiser_files
from diffeat.extraction.joins import hyperfeatures, views
from diffeat.extraction.joins.hyperfeatures import Hyperfeatures
from diffeat.extraction.joins.views import MixedViews
from diffeat.extraction.reading import Fuse, Reading
from diffeat.refinement import concatenate, mean_of_maps
from diffeat.refinement.maps import check_same_channels


class Join(Protocol):
    """Makes one map of several. The result is always called ``fused``.

    Attributes:
        network: What was trained, if anything.
    """

    @property
    def network(self) -> nn.Module | None: ...

    @classmethod
    def of(cls, recipe: Reading, backbone: Backbone, names: Sequence[str]) -> Self:
        """The join of a recipe whose maps are called ``names``, with its trained weights loaded."""
        ...

    def __call__(self, views: Sequence[Sequence[Tensor]]) -> tuple[Tensor, dict[str, Any]]:
        """The map ``(c, h, w)`` of one picture, and what its provenance says of it.

        Args:
            views: For each view (one where the recipe has none) its maps ``(c, h, w)``, steps outermost.
        """
        ...


@dataclass(frozen=True)
class Concat:
    """Maps on the channel axis, at one grid; by ``fuse.kind`` ``mean`` their mean, of maps with the same channels."""

    fuse: Fuse
    network: None = None

    @classmethod
    def of(cls, recipe: Reading, backbone: Backbone, names: Sequence[str]) -> Self:
        fuse = recipe.fuse or Fuse()
        if fuse.kind == "mean":
            catalogue = Catalogue.of(backbone)
            check_same_channels([catalogue[name].channels for name in names if name in catalogue])
        return cls(fuse)

    def __call__(self, views: Sequence[Sequence[Tensor]]) -> tuple[Tensor, dict[str, Any]]:
        maps, fuse = list(views[0]), self.fuse
        if fuse.kind == "mean":
            return mean_of_maps(maps, fuse.grid, fuse.resize), {}
        return concatenate(maps, fuse.grid, fuse.normalise, fuse.resize), {}


#: By the name in ``fuse.kind``.
JOINS: dict[str, type[Join]] = {
    "concat": Concat,
    "mean": Concat,
    "hyperfeatures": Hyperfeatures,
    "amalgamation": MixedViews,
}


#: Joins that are trained, and what finds their weights.
_FILES: dict[str, Callable[[Reading], Path]] = {
    "hyperfeatures": hyperfeatures.trained_file,
    "amalgamation": views.trained_file,
}


def check_weights(recipe: Reading) -> None:
    """Find all weights that a recipe names beside its model, before that is loaded."""
    if recipe.fuse is not None and recipe.fuse.kind in _FILES:
        _FILES[recipe.fuse.kind](recipe)
    for weights in (recipe.denoiser, *(view.denoiser for view in recipe.views or ())):
        if weights is not None:
            denoiser_files(**weights.model_dump())


def join_of(recipe: Reading, backbone: Backbone, names: Sequence[str]) -> Join | None:
    """The join of a recipe; ``None`` where its maps stay apart."""
    return (
        None
        if recipe.fuse is None or recipe.fuse.kind == "apart"
        else JOINS[recipe.fuse.kind].of(recipe, backbone, names)
    )
