"""The joins of views: several readings of one picture become one map, side by side, averaged or by trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction.joins.amalgamation import Amalgamation, AmalgamationConfig
from diffeat.extraction.joins.amalgamation_files import load_amalgamation
from diffeat.extraction.reading import Fuse, Reading
from diffeat.geometry import file_digest
from diffeat.refinement import concatenate
from diffeat.refinement.maps import largest_grid


class MixedViews:
    """Mixes the views of a recipe.

    Args:
        fuse: How.
        appended: For each view, whether it is put beside the mixture of the others.
        network: Of kind ``amalgamation``.
    """

    def __init__(self, fuse: Fuse, appended: Sequence[bool], network: Amalgamation | None = None) -> None:
        self._fuse = fuse
        self._appended = list(appended)
        self.network = network

    @classmethod
    def of(cls, recipe: Reading, backbone: Backbone, names: Sequence[str]) -> MixedViews:
        """The mixture that a recipe names.

        Raises:
            InvalidValueError: It names no trained weights where they are needed.
            ModelError: The weights are others than those the recipe was written with.
        """
        fuse = recipe.fuse or Fuse()
        network = _trained(recipe, fuse) if fuse.kind == "amalgamation" else None
        return cls(fuse, [view.append for view in recipe.views or ()], network)

    def __call__(self, views: Sequence[Sequence[Tensor]]) -> tuple[Tensor, dict[str, Any]]:
        """The map ``(c, h, w)`` of one picture's views, and how much each view counted."""
        mixed, extra = self.stacks(views)
        network = self.network or self._plain(mixed, extra)
        with torch.no_grad():
            joined, weights = network(mixed[None], None if extra is None else extra[None])
        if network.config.kind not in ("scalar", "channel"):
            return joined[0], {}
        return joined[0], {"view_weights": [round(w, 4) for w in weights.mean(dim=(0, 1, 3)).tolist()]}

    def stacks(self, views: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor | None]:
        """Views ``(v, c, h, w)`` and appended channels ``(a, h, w)`` of one picture, on one grid.

        Raises:
            InvalidValueError: If views differ in channels.
        """
        grid = self._fuse.grid or largest_grid([m for maps in views for m in maps])
        joined = [concatenate(list(maps), grid, resize=self._fuse.resize).float() for maps in views]
        mixed = [m for m, appended in zip(joined, self._appended, strict=True) if not appended]
        extra = [m for m, appended in zip(joined, self._appended, strict=True) if appended]
        if self._fuse.normalise:
            mixed = [F.normalize(m, dim=0) for m in mixed]
        if len({m.shape[0] for m in mixed}) > 1 and self._fuse.kind != "concat":
            raise InvalidValueError(
                f"Views are mixed channel by channel but have {[m.shape[0] for m in mixed]} channels. Give them the "
                "same activations, or mark the odd one 'append: true'."
            )
        if len({m.shape[0] for m in mixed}) > 1:
            return torch.cat(mixed)[None], torch.cat(extra) if extra else None
        return torch.stack(mixed), torch.cat(extra) if extra else None

    def _plain(self, mixed: Tensor, extra: Tensor | None) -> Amalgamation:
        kind = "mean" if self._fuse.kind == "mean" else "concat"
        appended = 0 if extra is None else extra.shape[0]
        return Amalgamation(AmalgamationConfig(mixed.shape[1], len(mixed), kind=kind, attention=appended))


def _trained(recipe: Reading, fuse: Fuse) -> Amalgamation:
    if fuse.weights is None:
        raise InvalidValueError(
            f"Recipe {recipe.name!r} mixes views by 'amalgamation' but names no trained weights (fuse.weights). Train "
            "them with diffeat.training.train_amalgamation, or use fuse 'concat' or 'mean'."
        )
    path = Path(fuse.weights.source) / fuse.weights.file if fuse.weights.file else Path(fuse.weights.source)
    if fuse.weights.sha256 is not None and path.is_file() and file_digest(path) != fuse.weights.sha256:
        raise ModelError(f"{path} is not the file that recipe {recipe.name!r} was written with.")
    return load_amalgamation(path)
