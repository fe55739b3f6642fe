"""Cross-attention as a feature: which text token each cell looks at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def aggregate_attention(
    maps: Sequence[Float[Tensor, "k h w"]], grid: tuple[int, int] | None = None
) -> Float[Tensor, "c h2 w2"]:
    """Maps of equal grids are averaged, grids are put behind one another, from coarse to fine.

    Args:
        maps: Per layer, one channel per text token (heads averaged).
        grid: Common grid (h, w), by nearest neighbour; the finest by default.
    """
    by_grid: dict[tuple[int, int], list[Tensor]] = {}
    for m in maps:
        by_grid.setdefault((m.shape[-2], m.shape[-1]), []).append(m)
    grids = sorted(by_grid, key=lambda g: g[0] * g[1])
    target = grid or grids[-1]
    means = [torch.stack(by_grid[g]).mean(0) for g in grids]
    return torch.cat([F.interpolate(m[None], size=target, mode="nearest")[0] for m in means])
