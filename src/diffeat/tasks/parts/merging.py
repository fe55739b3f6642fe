r"""Self-attention maps that look at the same places are merged (DiffSeg, arXiv:2308.12469).

Every place of the finest grid has a distribution over all places: the mean over heads, enlarged bilinearly to that
grid, of what it attends to in each layer, layers of one size averaged and sizes weighted by their width. Anchors on a
coarse lattice take the mean of all maps that are nearer than a threshold in

.. math:: \tfrac12 \sum_x (p(x) - q(x)) (\log p(x) - \log q(x)) ,

and are then merged with each other likewise, greedily. A place belongs to the proposal that is highest there.

The published code computes the first distances in float16, where what is below 6e-8 becomes 0 and matches nothing;
here they are float32 with probabilities of at least 1e-12. Nothing of the size places × places is made: rows come from
queries and keys, a strip at a time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffeat.errors import InvalidValueError

#: Published: of the notebook and for Cityscapes; 1.1 for COCO-Stuff.
THRESHOLDS = (0.9, 0.9, 0.9)
ANCHORS = 16
_STRIP = 512
_LEAST = 1e-12


class Looking(Protocol):
    """A self-attention: its grid, and rows of its matrix, mean over heads, (1, q, n)."""

    @property
    def grid(self) -> tuple[int, int]: ...
    def rows(self, places: Tensor) -> Tensor: ...


class AttentionRows:
    """Aggregated self-attention, made row by row.

    Attributes:
        grid: Rows and columns of the finest layer.
    """

    def __init__(self, layers: Sequence[Looking]) -> None:
        if not layers:
            raise InvalidValueError("There is no self-attention to merge.")
        self.grid = max((layer.grid for layer in layers), key=lambda grid: grid[0] * grid[1])
        by_grid: dict[tuple[int, int], list[Looking]] = defaultdict(list)
        for layer in layers:
            by_grid[layer.grid].append(layer)
        total = sum(grid[1] for grid in by_grid)
        self._sizes = [(grid, members, grid[1] / total) for grid, members in by_grid.items()]

    def __len__(self) -> int:
        return self.grid[0] * self.grid[1]

    def rows(self, places: Int[Tensor, " q"]) -> Float[Tensor, "q n"]:
        """The distributions of places, row-major numbers on the finest grid."""
        h, w = self.grid
        y, x = places // w, places % w
        result = torch.zeros(len(places), h * w)
        for (rows, columns), members, weight in self._sizes:
            coarse, back = torch.unique((y * rows // h) * columns + x * columns // w, return_inverse=True)
            looks = torch.stack([layer.rows(coarse)[0].float().cpu() for layer in members]).mean(0)
            large = F.interpolate(looks.unflatten(1, (1, rows, columns)), size=(h, w), mode="bilinear")
            flat = large.flatten(1)
            result += weight * (flat / flat.sum(1, keepdim=True))[back]
        return result


def anchors_of(grid: tuple[int, int], count: int = ANCHORS) -> Int[Tensor, "m 2"]:
    """Rows and columns of a centred lattice of ``count`` × ``count`` places, fewer where the grid is smaller.

    Example:
        >>> anchors_of((64, 64), 2).tolist()
        [[0, 0], [0, 63], [63, 0], [63, 63]]
    """
    axes = []
    for side in grid:
        most = min(count, side)
        step = (side - 1) // (most - 1) if most > 1 else 0
        axes.append(torch.arange(most) * step + (side - 1 - step * (most - 1)) // 2)
    return torch.cartesian_prod(*axes)


def divergence(one: Float[Tensor, "p n"], other: Float[Tensor, "q n"]) -> Float[Tensor, "p q"]:
    """The symmetric divergence of distributions, every two.

    Example:
        >>> divergence(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])).round(decimals=4)
        tensor([[0.1373]])
    """
    one, other = one.clamp(min=_LEAST), other.clamp(min=_LEAST)
    logs, others = one.log(), other.log()
    own = (one * logs).sum(1)[:, None] + (other * others).sum(1)
    return (own - one @ others.T - logs @ other.T) / 2


def first_matches(rows: AttentionRows, anchors: Int[Tensor, "m 2"], threshold: float) -> tuple[Tensor, Tensor]:
    """Which places (m, n) each anchor takes, and the means (m, n) of their maps."""
    own = rows.rows(anchors[:, 0] * rows.grid[1] + anchors[:, 1])
    near = torch.zeros(len(own), len(rows), dtype=torch.bool)
    sums = torch.zeros_like(own)
    for places in torch.arange(len(rows)).split(_STRIP):
        strip = rows.rows(places)
        close = divergence(own, strip) < threshold
        near[:, places] = close
        sums += close.float() @ strip
    return near, sums / near.sum(1, keepdim=True).clamp(min=1)


def merge_proposals(proposals: Float[Tensor, "p n"], threshold: float) -> Float[Tensor, "r n"]:
    """Each proposal that is not yet in a group forms one with all that are nearer than the threshold."""
    near = divergence(proposals, proposals) < threshold
    near.fill_diagonal_(True)
    used = torch.zeros(len(proposals), dtype=torch.bool)
    merged = []
    for i in range(len(proposals)):
        if not used[i]:
            merged.append(proposals[near[i]].mean(0))
            used |= near[i]
    return torch.stack(merged)


def merge_by_divergence(
    rows: AttentionRows, thresholds: Sequence[float] = THRESHOLDS, anchors: int = ANCHORS
) -> Float[Tensor, "k h w"]:
    """Proposals, one for each part.

    Args:
        thresholds: Of each iteration; larger ones merge more.
        anchors: Along each side of the lattice.

    Raises:
        InvalidValueError: No threshold, or one that is not positive.
    """
    if not thresholds or min(thresholds) <= 0 or anchors < 1:
        raise InvalidValueError(f"Merging takes positive thresholds, one for each iteration, not {list(thresholds)}.")
    _, proposals = first_matches(rows, anchors_of(rows.grid, anchors), thresholds[0])
    for threshold in thresholds[1:]:
        proposals = merge_proposals(proposals, threshold)
    return proposals.unflatten(1, rows.grid)
