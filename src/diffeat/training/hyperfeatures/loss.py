r"""Losses that make descriptors of the same point alike and of other points different.

Keypoints (Luo et al., NeurIPS 2023, sec. 3.3), with unit descriptors :math:`\hat a_i` of one picture at cells i,
:math:`\hat b_j` of the other, pairs (i_k, j_k), and τ = 0.07:

.. math:: L = -\frac{1}{2K} \sum_k
          \log \frac{e^{\hat a_{i_k} \cdot \hat b_{j_k} / τ}}{\sum_j e^{\hat a_{i_k} \cdot \hat b_j / τ}}
          + \log \frac{e^{\hat a_{i_k} \cdot \hat b_{j_k} / τ}}{\sum_i e^{\hat a_i \cdot \hat b_{j_k} / τ}}

All cells of the other picture are negatives. Only the K rows and K columns are computed, never the whole matrix.

Position (the dense term of GeoAware-SC, Zhang et al., CVPR 2024, sec. 4.2): the distance between the true point and the
expectation of its position under a softmax of the similarities with temperature β, over the whole picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from diffeat.tasks.correspondence.axis import sample_descriptors
from diffeat.tasks.correspondence.readout import window_soft_argmax

TEMPERATURE = 0.07


def nearest_cells(points: Float[Tensor, "n 2"], grid: tuple[int, int]) -> Int[Tensor, " n"]:
    """Index (row-major) of the cell of each point (x, y) in cells: rounded half to even, moved inside."""
    x = points[:, 0].clamp(0, grid[1] - 1).round().long()
    y = points[:, 1].clamp(0, grid[0] - 1).round().long()
    return y * grid[1] + x


def keypoint_loss(
    source: Float[Tensor, "d h w"],
    target: Float[Tensor, "d h2 w2"],
    source_cells: Int[Tensor, " n"],
    target_cells: Int[Tensor, " n"],
    temperature: float = TEMPERATURE,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy at the cells that belong together; see the module's docstring."""
    a, b = F.normalize(source.flatten(1), dim=0), F.normalize(target.flatten(1), dim=0)
    forth = a[:, source_cells].T @ b / temperature
    back = b[:, target_cells].T @ a / temperature
    return (F.cross_entropy(forth, target_cells) + F.cross_entropy(back, source_cells)) / 2


def position_loss(
    source: Float[Tensor, "d h w"],
    target: Float[Tensor, "d h2 w2"],
    source_points: Float[Tensor, "n 2"],
    target_points: Float[Tensor, "n 2"],
    temperature: float = 0.02,
) -> Float[Tensor, ""]:
    """Mean distance of the expected positions from the true points, in shares of the target's longer side.

    Args:
        source_points: (x, y) in cells of the source.
        target_points: Where they belong, in cells of the target.
        temperature: β of the softmax.
    """
    height, width = target.shape[-2:]
    queries = F.normalize(sample_descriptors(source, source_points), dim=1)
    similarity = torch.einsum("nd,dhw->nhw", queries, F.normalize(target, dim=0))
    expected = window_soft_argmax(similarity, max(height, width), temperature)
    return (expected - target_points.to(expected)).norm(dim=1).mean() / max(height, width)
