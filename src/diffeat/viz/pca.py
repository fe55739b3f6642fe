r"""Colours for features: the first three principal components as red, green and blue.

With cells :math:`f_i \in R^C`, mean :math:`\mu` and covariance :math:`\Sigma = \frac1n \sum_i
(f_i-\mu)(f_i-\mu)^T`, accumulated map by map in float64, a cell's colour is :math:`V_3^T (f_i - \mu)`, each
component scaled from its 2nd to its 98th percentile. An eigenvector's sign is chosen so that its entry of
largest magnitude is positive, which makes the colours the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import InvalidValueError

_PERCENTILES = (0.02, 0.98)


def pca_colours(maps: Sequence[Float[Tensor, "c h w"]], shared: bool = False) -> list[np.ndarray]:
    """Map features to colours.

    Args:
        maps: Features ``(C, h, w)``; grids may differ, with ``shared`` the channels must agree. Cells with
            NaN or infinity become mid grey and do not count.
        shared: One basis and one scale for all, so that equal colours mean equal features. Otherwise each
            map its own.

    Returns:
        One uint8 array ``(h, w, 3)`` for each map.

    Raises:
        InvalidValueError: A map is not ``(C, h, w)``, or the channels differ under ``shared``.
    """
    for values in maps:
        if values.ndim != 3 or 0 in values.shape:
            raise InvalidValueError(f"A map (C, h, w) is wanted, got shape {tuple(values.shape)}.")
    if not shared:
        return [_colours([values])[0] for values in maps]
    channels = sorted({values.shape[0] for values in maps})
    if len(channels) > 1:
        raise InvalidValueError(f"A shared basis needs equal channels, got {', '.join(map(str, channels))}.")
    return _colours(list(maps)) if maps else []


def _colours(maps: list[Tensor]) -> list[np.ndarray]:
    cells = [values.detach().cpu().to(torch.float64).flatten(1).T for values in maps]
    finite = [torch.isfinite(c).all(1) for c in cells]
    usable = [c[keep] for c, keep in zip(cells, finite, strict=True)]
    mean, basis = _basis(usable)
    scores = [(c - mean) @ basis for c in usable]
    together = torch.cat(scores)
    if len(together):
        thinned = together[:: -(-len(together) // 1_000_000)]
        low, high = (torch.quantile(thinned, p, dim=0) for p in _PERCENTILES)
    else:
        low, high = together.new_zeros(3), together.new_ones(3)
    pictures = []
    for values, keep, score in zip(maps, finite, scores, strict=True):
        # a component without spread (constant features) stays mid grey
        spread = high - low
        scaled = torch.where(spread > 1e-9 * (high.abs() + low.abs()), (score - low) / spread, 0.5)
        picture = torch.full((len(keep), 3), 0.5, dtype=torch.float64)
        picture[keep] = scaled.nan_to_num(0.5).clamp(0, 1)
        h, w = values.shape[-2:]
        pictures.append((picture * 255).round().to(torch.uint8).reshape(h, w, 3).numpy())
    return pictures


def _basis(cells: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean ``(C,)`` and the first three eigenvectors ``(C, 3)``, missing ones zero."""
    channels = cells[0].shape[1]
    count = max(sum(len(c) for c in cells), 1)
    mean = sum((c.sum(0) for c in cells), torch.zeros(channels, dtype=torch.float64)) / count
    if count < channels:  # the small side is quicker, and gives the same vectors
        centred = torch.cat([c - mean for c in cells])
        vectors = torch.linalg.svd(centred, full_matrices=False).Vh.T[:, :3]
    else:
        covariance = torch.zeros(channels, channels, dtype=torch.float64)
        for c in cells:
            centred = c - mean
            covariance += centred.T @ centred
        vectors = torch.linalg.eigh(covariance / count).eigenvectors.flip(1)[:, :3]
    if vectors.shape[1]:
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    basis = torch.zeros(channels, 3, dtype=torch.float64)
    basis[:, : vectors.shape[1]] = vectors
    return mean, basis
