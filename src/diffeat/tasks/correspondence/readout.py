r"""Sub-cell positions from a similarity map: the window soft-argmax of GeoAware-SC.

With the maximum at m, all similarities outside the (2k+1)² window around m are set to **zero** (not to −∞, as
in the published procedure), and the expected position is taken under a softmax of temperature β over the
whole grid:

.. math:: \hat p = \sum_p p\, \frac{\exp(s_p/β)}{\sum_q \exp(s_q/β)},\qquad
          s_p = [\lVert p-m\rVert_\infty \le k]\,\cos_p

Published settings: 60×60 cells, k = 7 (trained) or 5 (zero-shot), β = 0.02.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import InvalidValueError


def window_soft_argmax(
    similarity: Float[Tensor, "n h w"], radius: int = 5, temperature: float = 0.02
) -> Float[Tensor, "n 2"]:
    """Expected position (x, y), in cells, of every similarity map.

    Args:
        radius: k, so that the window has 2k+1 cells a side.
        temperature: β > 0.
    """
    if radius < 0 or not temperature > 0:
        raise InvalidValueError(
            f"A window soft-argmax needs radius ≥ 0 and temperature > 0, got {radius} and {temperature}."
        )
    n, h, w = similarity.shape
    best = similarity.flatten(1).argmax(1)
    y = torch.arange(h, device=similarity.device)
    x = torch.arange(w, device=similarity.device)
    inside = ((y[None, :] - (best // w)[:, None]).abs() <= radius)[:, :, None] & (
        (x[None, :] - (best % w)[:, None]).abs() <= radius
    )[:, None, :]
    weight = (torch.where(inside, similarity, 0) / temperature).flatten(1).softmax(1).view(n, h, w)
    return torch.stack(((weight.sum(1) * x).sum(1), (weight.sum(2) * y).sum(1)), dim=1)
