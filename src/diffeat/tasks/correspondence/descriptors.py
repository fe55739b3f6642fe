"""Feature vectors at points."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.tasks.correspondence.axis import Axis


def sample_descriptors(features: Float[Tensor, "c h w"], cells: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
    """Bilinear samples at points (x, y) in cells; beyond the border cells' centres the border repeats.

    At the pixel centres of a picture this equals reading the map resized to that picture
    (``align_corners=False``). Half precisions are sampled in float32.
    """
    wide = features if features.dtype in (torch.float32, torch.float64) else features.float()
    columns = Axis.at(cells[:, 0].cpu(), features.shape[2]).to(features.device)
    rows = Axis.at(cells[:, 1].cpu(), features.shape[1]).to(features.device)
    e, f = columns.weight.to(wide.dtype), rows.weight.to(wide.dtype)
    above = torch.lerp(wide[:, rows.low, columns.low], wide[:, rows.low, columns.high], e)
    below = torch.lerp(wide[:, rows.high, columns.low], wide[:, rows.high, columns.high], e)
    return torch.lerp(above, below, f).T
