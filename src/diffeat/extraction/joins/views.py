"""The joins of views: several readings of one picture become one map, side by side, averaged or by trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diffeat.backbones import Backbone
from diffeat.backbones.weights import check_digest
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction.joins.amalgamation import Amalgamation, AmalgamationConfig, LevelAmalgamation, load_amalgamation
from diffeat.extraction.reading import Fuse, Reading
from diffeat.refinement import concatenate
from diffeat.refinement.maps import largest_grid


class MixedViews:
    """Mixes the views of a recipe; of kind ``amalgamation`` by a network.

    Args:
        appended: For each view, whether it is put beside the mixture of the others.
    """

    def __init__(
        self, fuse: Fuse, appended: Sequence[bool], network: Amalgamation | LevelAmalgamation | None = None
    ) -> None:
        self._fuse = fuse
        self._appended = list(appended)
        self.network = network

    @classmethod
    def of(cls, recipe: Reading, backbone: Backbone, names: Sequence[str]) -> MixedViews:
        """The mixture that a recipe names; refused if its weights are not there, or not those it was written with."""
        fuse = recipe.fuse or Fuse()
        trained = fuse.kind == "amalgamation"
        network = load_amalgamation(trained_file(recipe)).to(backbone.device) if trained else None
        return cls(fuse, [view.append for view in recipe.views or ()], network)

    def __call__(self, views: Sequence[Sequence[Tensor]]) -> tuple[Tensor, dict[str, Any]]:
        """The map ``(c, h, w)`` of one picture's views, and how much each view counted."""
        by_level = isinstance(self.network, LevelAmalgamation)
        levels, extra = self.stacks(views, by_level)
        network = self.network or self._plain(levels[0], extra)
        given = [level[None] for level in levels]
        with torch.no_grad():
            joined, weights = network(given if by_level else given[0], None if extra is None else extra[None])
        if isinstance(network, Amalgamation) and network.config.kind not in ("scalar", "channel"):
            return joined[0], {}
        shares = torch.stack([share_of(w) for w in (weights if by_level else [weights])]).mean(0)
        return joined[0], {"view_weights": [round(w, 4) for w in shares.tolist()]}

    def stacks(self, views: Sequence[Sequence[Tensor]], by_level: bool = False) -> tuple[list[Tensor], Tensor | None]:
        """Views and appended channels ``(a, h, w)`` of one picture.

        Returns:
            Views ``(v, c, h, w)`` on one grid; ``by_level`` their maps one by one, each on its own grid.
        """
        grid = self._fuse.grid or largest_grid([m for maps in views for m in maps])
        joined = [concatenate(list(maps), grid, resize=self._fuse.resize).float() for maps in views]
        extra = [m for m, appended in zip(joined, self._appended, strict=True) if appended]
        mixed = [
            [m.float() for m in maps] if by_level else [whole]
            for maps, whole, appended in zip(views, joined, self._appended, strict=True)
            if not appended
        ]
        if self._fuse.normalise:
            mixed = [[F.normalize(m, dim=0) for m in maps] for maps in mixed]
        if len({tuple(m.shape for m in maps) for maps in mixed}) == 1:
            levels = [torch.stack(level) for level in zip(*mixed, strict=True)]
        elif self._fuse.kind == "concat":
            levels = [torch.cat([m for maps in mixed for m in maps])[None]]
        else:
            raise InvalidValueError(
                f"Views are mixed channel by channel but have {[m.shape[0] for m in joined]} channels. Give them the "
                "same activations, or mark the odd one 'append: true'."
            )
        return levels, torch.cat(extra) if extra else None

    def _plain(self, mixed: Tensor, extra: Tensor | None) -> Amalgamation:
        kind = "mean" if self._fuse.kind == "mean" else "concat"
        appended = 0 if extra is None else extra.shape[0]
        return Amalgamation(AmalgamationConfig(mixed.shape[1], len(mixed), kind=kind, attention=appended))


def share_of(weights: Float[Tensor, "n b v k *place"]) -> Float[Tensor, " v"]:
    """How much each view counts, on average."""
    return weights.movedim(2, 0).flatten(1).mean(1)


def trained_file(recipe: Reading) -> Path:
    """The file of the trained weights that a recipe names; errors as of :meth:`MixedViews.of`."""
    weights = None if recipe.fuse is None else recipe.fuse.weights
    if weights is None:
        raise InvalidValueError(
            f"Recipe {recipe.name!r} mixes views by 'amalgamation' but names no trained weights (fuse.weights). Train "
            "them with 'diffeat train amalgamation', or use fuse 'concat' or 'mean'."
        )
    path = Path(weights.source) / weights.file if weights.file else Path(weights.source)
    if not path.is_file():
        raise ModelError(f"The amalgamation's weights {path} are not there: no such file.")
    check_digest([path], weights.sha256, f"fuse.weights.sha256 of recipe {recipe.name!r}")
    return path
