"""Which pairs a protocol can score: told by what is annotated, before anything is extracted."""

from __future__ import annotations

import math
from itertools import islice

from diffeat.datasets.pairs import Box, PairDataset, PointPair
from diffeat.errors import DatasetError
from diffeat.tasks.correspondence.protocol import Protocol

_NO_BOX = "no target box"


def why_not(pair: PointPair, protocol: Protocol) -> str:
    """Why a pair cannot be scored; empty where it can."""
    if not pair.source_points:
        return "no keypoint"
    values = [v for p in (*pair.source_points, *pair.target_points) for v in p]
    if not all(math.isfinite(v) for v in values):
        return "a keypoint is not a number"
    if protocol.reference == "bbox":
        if pair.target_box is None:
            return _NO_BOX
        if not has_area(pair.target_box):
            return "target box without area"
    return ""


def check_scorable(data: PairDataset, protocol: Protocol) -> None:
    """Refuse a set of which a protocol can score no pair; whoever extracts it first would do so in vain.

    Raises:
        DatasetError: Naming the reason of the first pairs.
    """
    reasons = {pair.name: why_not(pair, protocol) for pair in data}
    if all(reasons.values()):
        told = "; ".join(f"{name}: {reason}" for name, reason in islice(reasons.items(), 3)) or "it has none"
        fix = " Choose a protocol that measures by the picture, such as 'picture' or 'gdf'."
        fix = fix if _NO_BOX in reasons.values() else ""
        raise DatasetError(f"No pair of {data.name} can be scored by protocol {protocol.name!r} ({told}).{fix}")


def has_area(box: Box | None) -> bool:
    """Whether there is a box, with an inside."""
    return box is not None and box[2] > box[0] and box[3] > box[1]
