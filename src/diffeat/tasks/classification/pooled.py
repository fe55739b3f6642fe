"""One vector for a picture: its maps averaged over the cells that see the picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.features import FeatureMap


def pooled_features(features: FeatureMap, activations: Sequence[str] | None = None) -> Float[Tensor, " c"]:
    """Mean over cells of every map, side by side; padding does not count.

    Args:
        features: Of one picture.
        activations: Which maps; all if not given.
    """
    parts = []
    for name in activations if activations is not None else features.activations:
        values = features[name].float().cpu()
        top, left, height, width = features.frame.content_cells((values.shape[1], values.shape[2]))
        parts.append(values[:, top : top + height, left : left + width].mean((1, 2)))
    return torch.cat(parts)
