"""Matching whole pictures: pairs of cells that choose each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.tasks.correspondence.axis import cell_centres
from diffeat.tasks.correspondence.matching import Matches, check_features, check_same_recipe, match, pick

if TYPE_CHECKING:
    from diffeat.features import FeatureMap


def mutual_matches(
    source: FeatureMap,
    target: FeatureMap,
    *,
    activation: str | None = None,
    memory: int = 64 << 20,
) -> Matches:
    """Pairs of feature cells that are each other's nearest neighbour by cosine similarity.

    Cells whose centre lies in padding are left out.

    Returns:
        Cell centres in original pixels, in reading order of the source; may be empty.
    """
    check_same_recipe(source, target)
    (a, at), (b, bt) = (_cells(f, activation, name) for f, name in ((source, "source"), (target, "target")))
    if a.shape[1] != b.shape[1]:
        raise InvalidValueError(
            f"Source features have {a.shape[1]} channels, target features {b.shape[1]}. Extract both by one recipe."
        )
    score = a.new_full((len(a),), -torch.inf)
    forward = torch.zeros(len(a), dtype=torch.long, device=a.device)
    back_score = a.new_full((len(b),), -torch.inf)
    back = torch.zeros(len(b), dtype=torch.long, device=a.device)
    rows = max(1, memory // (4 * max(1, len(b))))
    for start in range(0, len(a), rows):
        part = a[start : start + rows] @ b.T
        score[start : start + rows], forward[start : start + rows] = part.max(1)
        best, index = part.max(0)
        better = best > back_score
        back_score = torch.where(better, best, back_score)
        back = torch.where(better, index + start, back)
    mutual = (back[forward] == torch.arange(len(a), device=a.device)).nonzero()[:, 0]
    return Matches(at[mutual.cpu()], bt[forward[mutual].cpu()], score[mutual].cpu())


def strongest_matches(source: FeatureMap, target: FeatureMap, count: int) -> Matches:
    """The most similar of the places that choose each other, kept apart by a tenth of the source picture.

    Returns:
        ``count`` matches or fewer, the most similar first.
    """
    mutual, apart = mutual_matches(source, target), 0.1 * max(source.frame.original)
    chosen: list[Tensor] = []
    for i in mutual.similarity.argsort(descending=True).tolist():
        if len(chosen) < count and all(torch.dist(mutual.source[i], point) >= apart for point in chosen):
            chosen.append(mutual.source[i])
    return match(source, target, torch.stack(chosen) if chosen else torch.zeros(0, 2))


def _cells(features: FeatureMap, activation: str | None, name: str) -> tuple[Tensor, Tensor]:
    """Unit descriptors (n, c) of the cells on the picture, and their centres in original pixels (n, 2)."""
    tensor = pick(features, activation)
    check_features(tensor, name)
    centres = cell_centres(features.frame, (tensor.shape[1], tensor.shape[2]))
    limit = centres.new_tensor(features.frame.original) - 0.5
    inside = ((centres >= -0.5) & (centres <= limit)).all(-1)
    vectors = torch.nn.functional.normalize(tensor.float().flatten(1).T, dim=1, eps=1e-12)
    return vectors[inside.to(vectors.device)], centres[inside]
