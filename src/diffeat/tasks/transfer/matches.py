r"""Marks of one picture in another, by nearest features, each checked by going back.

A point p is looked for at every pixel of the other picture (exactly, :func:`~diffeat.tasks.correspondence.match`); the
place q that is found is looked for in the first picture in turn. Its return p' tells whether the match is mutual: it
may miss p by a tenth of the picture's longer side at most. The confidence of a point is

.. math:: \max(0, \cos(f_p, f_q)) \cdot \exp(-\tfrac12 \lVert p - p' \rVert^2 / (0.05\,L)^2)

with L the longer side. A box is carried by the points inside it: along each axis, the line through their mutual matches
that minimises the median error (Theil-Sen: the median of the slopes between pairs) gives scale and shift; its
confidence is the share of points that are mutual times their mean confidence. A mask is carried as labels of a video
are: every cell of the other picture takes the labels of the most similar cells, weighted by similarity, background
included; a pixel's confidence is the share of its label times that of the match with the most similar cell, which is
checked like a point's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from diffeat.ambient import neutral
from diffeat.errors import InvalidValueError
from diffeat.features import FeatureMap
from diffeat.notebook import Displayed, Html, table
from diffeat.tasks.correspondence.matching import Target, check_same_recipe
from diffeat.tasks.transfer.annotation import Annotation, Box, Point

_MUTUAL, _SPREAD = 0.1, 0.05
_GRID, _LEAST = 12, 4  # points along a box's side, and mutual ones that it takes
_ROWS = 1 << 22  # similarities held at once


@dataclass(frozen=True)
class TransferOptions:
    """How masks are carried: numbers as of label propagation.

    Attributes:
        topk: Cells that a cell's labels come from.
        temperature: Of the weights among them.
    """

    topk: int = 5
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if self.topk < 1 or not self.temperature > 0:
            raise InvalidValueError(f"topk is at least 1 and the temperature above 0, got {self}.")


@dataclass(frozen=True)
class FoundPoint:
    """A point in the other picture.

    Attributes:
        at: (x, y) in its pixels.
        similarity: Cosine.
        back: Pixels of the first picture by which the way back misses the point.
        mutual: Whether that is little.
        confidence: 0…1.
    """

    at: Point
    similarity: float
    back: float
    mutual: bool
    confidence: float


@dataclass(frozen=True)
class FoundBox:
    """A box in the other picture, cut at its border; ``None`` where too little of it is found."""

    at: Box | None
    confidence: float


@dataclass(frozen=True, repr=False)
class Transferred(Displayed):
    """The marks in another picture.

    Attributes:
        mask: (H, W) numbers, as they were marked.
        confidence: (H, W), of the mask.
    """

    points: dict[str, FoundPoint] = field(default_factory=dict)
    boxes: dict[str, FoundBox] = field(default_factory=dict)
    mask: NDArray[np.uint8] | None = None
    confidence: NDArray[np.float32] | None = None

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        marks = {"points": len(self.points), "boxes": len(self.boxes)}
        return "marks", marks if self.mask is None else {**marks, "mask": f"{self.mask.shape[1]}×{self.mask.shape[0]}"}

    def _details(self) -> Iterator[Html]:
        points = {name: (point.at, point.confidence) for name, point in self.points.items()}
        boxes = {name: (box.at, box.confidence) for name, box in self.boxes.items()}
        rows = [
            [name, "not found" if at is None else ", ".join(f"{v:.1f}" for v in at), f"{confidence:.2f}"]
            for name, (at, confidence) in {**points, **boxes}.items()
        ]
        if rows:
            yield table(["mark", "at", "confidence"], rows)


@neutral()
def transfer(
    source: FeatureMap, target: FeatureMap, annotation: Annotation, options: TransferOptions | None = None
) -> Transferred:
    """Find the marks of ``source`` in ``target``; both have one map, by one recipe.

    Raises:
        InvalidValueError: The annotation does not fit the source, or the features are of different recipes.
    """
    annotation.check(source.frame.original)
    check_same_recipe(source, target)
    there, back = Target(target), Target(source)
    points = _points(source, target, list(annotation.points.values()), there, back)
    boxes = {name: _box(source, target, box, there, back) for name, box in annotation.boxes.items()}
    mask = confidence = None
    if annotation.mask is not None:
        mask, confidence = _mask(source, target, annotation.mask, options or TransferOptions())
    return Transferred(dict(zip(annotation.points, points, strict=True)), boxes, mask, confidence)


def _points(
    source: FeatureMap, target: FeatureMap, points: list[Point], there: Target, back: Target
) -> list[FoundPoint]:
    if not points:
        return []
    asked = torch.tensor(points, dtype=torch.float64)
    found = there.find(source, asked)
    returned = back.find(target, found.target)
    longer = max(source.frame.original)
    results = []
    for at, cosine, miss in zip(
        found.target.tolist(), found.similarity.tolist(), (returned.target - asked).norm(dim=1).tolist(), strict=True
    ):
        confidence = max(0.0, cosine) * float(np.exp(-0.5 * (miss / (_SPREAD * longer)) ** 2))
        results.append(FoundPoint((at[0], at[1]), cosine, miss, miss <= _MUTUAL * longer, confidence))
    return results


def _box(source: FeatureMap, target: FeatureMap, box: Box, there: Target, back: Target) -> FoundBox:
    left, top, right, bottom = box
    steps = (np.arange(_GRID) + 0.5) / _GRID
    inside = [(left + (right - left) * u, top + (bottom - top) * v) for v in steps for u in steps]
    found = _points(source, target, inside, there, back)
    kept = [(p, f) for p, f in zip(inside, found, strict=True) if f.mutual]
    if len(kept) < _LEAST:
        return FoundBox(None, 0.0)
    width, height = target.frame.original
    edges = []
    for axis, (low, high), limit in ((0, (left, right), width), (1, (top, bottom), height)):
        scale, shift = _line(np.array([p[axis] for p, _ in kept]), np.array([f.at[axis] for _, f in kept]))
        edges.append(np.clip([scale * low + shift, scale * high + shift], -0.5, limit - 0.5))
    (x0, x1), (y0, y1) = edges
    confidence = len(kept) / len(found) * float(np.mean([f.confidence for _, f in kept]))
    if x1 - x0 < 1 or y1 - y0 < 1:
        return FoundBox(None, 0.0)
    return FoundBox((float(x0), float(y0), float(x1), float(y1)), confidence)


def _line(here: NDArray, there: NDArray) -> tuple[float, float]:
    """Scale and shift by medians; a scale between a quarter and four, mirrored figures included."""
    i, j = np.triu_indices(len(here), 1)
    apart = np.abs(here[i] - here[j]) > 1e-6
    slopes = np.abs((there[i] - there[j])[apart] / (here[i] - here[j])[apart])
    scale = float(np.clip(np.median(slopes), 0.25, 4)) if len(slopes) else 1.0
    return scale, float(np.median(there) - scale * np.median(here))


def _mask(
    source: FeatureMap, target: FeatureMap, mask: NDArray[np.uint8], options: TransferOptions
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    numbers = torch.from_numpy(np.unique(np.append(mask, 0)).astype(np.int64))
    grid = (source.tensor.shape[1], source.tensor.shape[2])
    one_hot = (torch.from_numpy(mask.astype(np.int64))[None] == numbers[:, None, None]).float()
    labels = _on_cells(one_hot, source, grid).flatten(1).T
    keys, queries = (F.normalize(f.tensor.float().flatten(1), dim=0) for f in (source, target))
    top, left, height, width = source.frame.content_cells(grid)
    inside = torch.zeros(grid, dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    keys, labels = keys[:, inside.flatten()], labels[inside.flatten()].to(keys.device)
    shape = (target.tensor.shape[1], target.tensor.shape[2])
    soft, cosine, nearest = [], [], []
    most, back = keys.new_full((keys.shape[1],), -torch.inf), torch.zeros(keys.shape[1], dtype=torch.long)
    back = back.to(keys.device)
    for number, part in enumerate(queries.split(step := max(1, _ROWS // keys.shape[1]), dim=1)):
        scores = part.T @ keys
        best, index = scores.topk(min(options.topk, keys.shape[1]), dim=1)
        weights = torch.softmax(best / options.temperature, 1)
        soft.append((weights[..., None] * labels[index]).sum(1))
        cosine.append(best[:, 0])
        nearest.append(index[:, 0])
        top_here, row = scores.max(0)
        back = torch.where(top_here > most, row + number * step, back)
        most = torch.maximum(most, top_here)
    own = torch.arange(queries.shape[1], device=keys.device)
    returned = back[torch.cat(nearest)]
    down, right = own // shape[1] - returned // shape[1], own % shape[1] - returned % shape[1]
    miss = torch.hypot(down.float(), right.float()) / max(shape)
    sure = torch.cat(cosine).clamp(min=0) * torch.exp(-0.5 * (miss / _SPREAD) ** 2)
    maps = torch.cat([torch.cat(soft).T, sure[None]]).unflatten(1, shape).cpu()
    large = target.frame.map_to_original(maps)
    share, winner = large[:-1].max(0)
    return numbers[winner].numpy().astype(np.uint8), (share * large[-1]).numpy().astype(np.float32)


def _on_cells(
    values: Float[Tensor, "k height width"], features: FeatureMap, grid: tuple[int, int]
) -> Float[Tensor, "k h w"]:
    """Shares of every label in the area of every cell; padding is background."""
    frame = features.frame
    model = frame.map_from_original(values)
    if frame.padded:
        left, top, width, height = frame.content
        outside = torch.ones(frame.model[::-1], dtype=torch.bool)
        outside[top : top + height, left : left + width] = False
        model[:, outside] = 0.0
        model[0, outside] = 1.0
    return F.adaptive_avg_pool2d(model[None], grid)[0]
