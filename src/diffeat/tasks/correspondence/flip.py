"""Pose-aligned matching: the source as it is, or mirrored, whichever looks more like the target.

Semantic features confuse left and right when the two objects face opposite ways. Mirroring the source often removes
the confusion. Which of the two to take is decided without labels: by how well the source's cells find partners in the
target, as in GeoAware-SC (adaptive pose alignment; Zhang et al., arXiv:2311.17034, section 4.1), here over the
source's object box instead of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffeat.ambient import neutral
from diffeat.errors import InvalidValueError
from diffeat.tasks.correspondence.axis import cell_centres
from diffeat.tasks.correspondence.matching import Matches, Target, check_features, check_points, pick

if TYPE_CHECKING:
    from diffeat.features import FeatureMap


def partner_similarity(
    source: FeatureMap, target: FeatureMap, box: Sequence[float] | None = None, activation: str | None = None
) -> float:
    """Mean, over the source's cells, of the cosine with the most similar target cell; higher is more alike.

    Args:
        box: (left, top, right, bottom) in original source pixels: only cells with their centre inside count. All
            cells if none is inside.
    """
    a, b = (pick(f, activation) for f in (source, target))
    for features, whose in ((a, "source"), (b, "target")):
        check_features(features, whose)
    centres = cell_centres(source.frame, (a.shape[1], a.shape[2]))
    left, top, right, bottom = box or (-0.5, -0.5, *(n - 0.5 for n in source.frame.original))
    low, high = centres.new_tensor([left, top]), centres.new_tensor([right, bottom])
    inside = ((centres >= low) & (centres <= high)).all(1)
    cells = a.float().flatten(1).T
    chosen = cells[inside.to(cells.device)] if inside.any() else cells
    unit = torch.nn.functional.normalize(chosen, dim=1)
    other = torch.nn.functional.normalize(b.float().flatten(1), dim=0)
    return float((unit @ other).amax(1).mean())


def mirrored_points(points: Tensor, width: int) -> Tensor:
    """Points (x, y) of a picture in its mirrored copy."""
    return torch.stack((width - 1 - points[:, 0], points[:, 1]), dim=1)


@neutral()
def find_pose_aligned(
    source: FeatureMap,
    mirrored: FeatureMap,
    target: Target,
    points: Tensor | Sequence[Sequence[float]],
    *,
    box: Sequence[float] | None = None,
    swap: Sequence[int] | None = None,
) -> tuple[Matches, bool]:
    """Match from the source or its mirrored copy.

    Args:
        mirrored: Features of the source's copy with left and right exchanged.
        points: (n, 2) in original source pixels.
        box: Of the source's object, for the decision.
        swap: For each point, the index of the point that plays its part in the mirrored picture (left ear for right
            ear); without it every point keeps its part.

    Returns:
        The matches of ``points``, and whether the mirrored copy was used.
    """
    asked = check_points(points, source.frame)
    width = source.frame.original[0]
    if mirrored.frame.original != source.frame.original:
        raise InvalidValueError(
            f"The mirrored copy is of {mirrored.frame.original}, the source of {source.frame.original} pixels."
        )
    flipped_box = None if box is None else (width - 1 - box[2], box[1], width - 1 - box[0], box[3])
    plain = partner_similarity(source, target.feature_map, box, target.activation)
    other = partner_similarity(mirrored, target.feature_map, flipped_box, target.activation)
    if other <= plain:
        return target.find(source, asked), False
    queries = asked if swap is None else asked[torch.as_tensor(swap)]
    found = target.find(mirrored, mirrored_points(queries, width))
    return Matches(asked, found.target, found.similarity), True
