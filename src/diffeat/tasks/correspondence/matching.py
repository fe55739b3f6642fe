"""Points of one picture found in another, by the features of both; pairs of cells that choose each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from diffeat.ambient import neutral
from diffeat.errors import InvalidValueError, did_you_mean, shown
from diffeat.features.feature_map import FeatureMap, value_range
from diffeat.notebook import Displayed, Html, table
from diffeat.tasks.correspondence.axis import cell_centres, sample_descriptors
from diffeat.tasks.correspondence.lattice import Lattice
from diffeat.tasks.correspondence.readout import window_soft_argmax
from diffeat.tasks.correspondence.target import PreparedTarget, check_features

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from diffeat.geometry import Frame

Readout = Literal["argmax", "window"]


@dataclass(frozen=True)
class Matching:
    """How a point is found. The default is exact matching at the target's own resolution.

    Attributes:
        readout: ``"argmax"``, or ``"window"``: soft-argmax in a window, on the cells only.
        radius: Of the window, in cells.
    """

    lattice: Lattice = field(default_factory=Lattice)
    readout: Readout = "argmax"
    radius: int = 5
    temperature: float = 0.02

    def __post_init__(self) -> None:
        if self.readout not in ("argmax", "window"):
            raise InvalidValueError(f"No readout {self.readout!r}. {did_you_mean(self.readout, ('argmax', 'window'))}")
        if self.readout == "window" and self.lattice.size != "cells":
            raise InvalidValueError("The window soft-argmax works on feature cells: use Lattice('cells').")

    def __str__(self) -> str:
        size = self.lattice.size
        where = {"original": "original pixels", "cells": "feature cells"}.get(str(size)) or (
            f"{size[0]}×{size[1]} pixels"
        )
        how = (
            "argmax"
            if self.readout == "argmax"
            else f"soft-argmax in a window of {2 * self.radius + 1}², β={self.temperature:g}"
        )
        convention = "" if self.lattice.convention == "half-pixel" else f", {self.lattice.convention} convention"
        return f"cosine {how} over {where}{convention}"


@dataclass(frozen=True, repr=False)
class Matches(Displayed):
    """Where points were found.

    Attributes:
        source: (n, 2) float64, the points asked for, in original source pixels (x, y).
        target: (n, 2) float64, where they lie, in original target pixels (x, y).
        similarity: (n,) cosine of each match, in [-1, 1].
    """

    source: Tensor
    target: Tensor
    similarity: Tensor

    def __len__(self) -> int:
        return len(self.source)

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        low, high = value_range(self.similarity)
        return f"{len(self)} points", {"similarity": f"{low:.2f} … {high:.2f}"} if len(self) else {}

    def _details(self) -> Iterator[Html]:
        places = torch.cat([self.source, self.target], 1).tolist()
        rows = [
            [f"({a:.1f}, {b:.1f})", f"({c:.1f}, {d:.1f})", f"{cosine:.3f}"]
            for (a, b, c, d), cosine in zip(places, self.similarity.tolist(), strict=True)
        ]
        yield table(["source (x, y)", "target (x, y)", "cosine"], rows)


class Target:
    """A picture to search in; holds what is the same for all searches.

    Args:
        activation: Which of its maps, where there are several.
    """

    @neutral()
    def __init__(self, features: FeatureMap, matching: Matching | None = None, activation: str | None = None) -> None:
        self.matching = matching or Matching()
        self.feature_map = features
        self.activation = activation
        tensor = pick(features, activation)
        self.grid: tuple[int, int] = (tensor.shape[1], tensor.shape[2])
        self.frame: Frame = features.frame
        self.prepared = PreparedTarget(tensor, *self.matching.lattice.axes(self.frame, self.grid))

    @neutral()
    def find(self, source: FeatureMap, points: Tensor | Sequence, memory: int | None = None) -> Matches:
        """Find ``points`` of ``source`` here. See :func:`match`."""
        asked = check_points(points, source.frame)
        descriptors = self._descriptors(source, asked)
        if self.matching.readout == "window":
            similarity = self.prepared.similarity(descriptors)
            places = window_soft_argmax(similarity, self.matching.radius, self.matching.temperature)
            best = similarity.flatten(1).amax(1)
        else:
            places, best = self.prepared.nearest(descriptors, memory)
        found = self.matching.lattice.to_original(places.cpu(), self.frame, self.grid)
        return Matches(asked, found, best.float().cpu())

    @neutral()
    def heat(self, source: FeatureMap, point: Tensor | Sequence[float]) -> Tensor:
        """Cosine similarity of one source point with the whole picture, (rows, columns) of the lattice."""
        points = check_points(torch.as_tensor(point).reshape(-1, 2), source.frame)
        if len(points) != 1:
            raise InvalidValueError(f"A heat map is of one point (x, y), got {len(points)}.")
        return self.prepared.similarity(self._descriptors(source, points))[0]

    def _descriptors(self, source: FeatureMap, points: Tensor) -> Tensor:
        tensor = pick(source, self.activation)
        check_same_recipe(source, self.feature_map)
        check_features(tensor, "source")
        cells = self.matching.lattice.source_cells(points, source.frame, (tensor.shape[1], tensor.shape[2]))
        return sample_descriptors(tensor, cells).to(self.prepared.features.device)


def match(
    source: FeatureMap,
    target: FeatureMap,
    points: Tensor | Sequence,
    *,
    matching: Matching | None = None,
    activation: str | None = None,
    memory: int | None = None,
) -> Matches:
    """Find points of ``source`` in ``target`` by cosine similarity of their features.

    By default every pixel of the original target is compared, exactly as if both maps were resized to their
    pictures; time and memory are those of the native grids (see :mod:`diffeat.tasks.correspondence.target`).

    Args:
        source: Features of the picture the points lie in.
        target: Features of the picture to search, by the same recipe.
        points: (n, 2) points (x, y) in original source pixels; (0, 0) is the centre of the top-left pixel.
        matching: Another lattice or readout.
        activation: Which map, where the features hold several.
        memory: Bytes of scores held at once; chosen by device if not given.

    Raises:
        InvalidValueError: A point is NaN or outside the picture, or the features are of different recipes.
        NonFiniteError: Features hold NaN or infinity.

    Example:
        >>> found = match(cat, dog, [[120, 80]])        # doctest: +SKIP
        >>> found.target, found.similarity              # doctest: +SKIP
    """
    need_features(source, target)
    return Target(target, matching, activation).find(source, points, memory)


def heat_map(
    source: FeatureMap, target: FeatureMap, point: Tensor | Sequence[float], activation: str | None = None
) -> Tensor:
    """Cosine similarity of one source point (x, y) with every original target pixel, (H₀, W₀) in [-1, 1]."""
    need_features(source, target)
    return Target(target, None, activation).heat(source, point)


@neutral()
def mutual_matches(
    source: FeatureMap, target: FeatureMap, *, activation: str | None = None, memory: int = 64 << 20
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


def check_mask(allowed: Tensor, size: tuple[int, int]) -> None:
    """Refuse a mask (H, W) that is not of a picture's (width, height), or is empty.

    Raises:
        InvalidValueError: It is.
    """
    if tuple(allowed.shape) != size[::-1]:
        raise InvalidValueError(
            f"A mask of {size[0]}×{size[1]} pixels is wanted, got {'×'.join(map(str, allowed.shape[::-1]))}."
        )
    if not allowed.any():
        raise InvalidValueError("The mask is empty: there is no place for a point.")


def strongest_matches(source: FeatureMap, target: FeatureMap, count: int, mask: Tensor | None = None) -> Matches:
    """The most similar of the places that choose each other, spread over the picture or a mask of it.

    Each keeps the others out of as much space as a ``count``-th of the area has, or less where there are too few
    places. A sixteenth of the picture along its borders is left out: what a model says there is of the border.

    Args:
        mask: (H, W) bool, where in the original source picture places may lie.

    Returns:
        ``count`` matches or fewer, the most similar first.

    Raises:
        InvalidValueError: The mask is not of the picture's size, or is empty; or ``count`` is below 1.
    """
    if count < 1:
        raise InvalidValueError(f"At least one match is looked for, not {count}.")
    width, height = source.frame.original
    allowed = torch.ones(height, width, dtype=torch.bool) if mask is None else mask.cpu().clone()
    check_mask(allowed, (width, height))
    x, y = width // 16, height // 16
    inner = torch.zeros_like(allowed)
    inner[y : height - y, x : width - x] = True
    allowed &= inner
    mutual = mutual_matches(source, target)
    columns, rows = mutual.source.round().long().T
    inside = allowed[rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    places = mutual.source[inside][mutual.similarity[inside].argsort(descending=True, stable=True)]
    chosen: list[int] = []
    apart = (float(allowed.sum()) / count) ** 0.5
    while len(chosen) < min(count, len(places)):
        chosen = []
        for i in range(len(places)):
            if len(chosen) < count and (not chosen or torch.cdist(places[i : i + 1], places[chosen]).min() >= apart):
                chosen.append(i)
        apart *= 0.8
    return match(source, target, places[chosen])


def _cells(features: FeatureMap, activation: str | None, name: str) -> tuple[Tensor, Tensor]:
    """Unit descriptors (n, c) of the cells on the picture, and their centres in original pixels (n, 2)."""
    tensor = pick(features, activation)
    check_features(tensor, name)
    centres = cell_centres(features.frame, (tensor.shape[1], tensor.shape[2]))
    limit = centres.new_tensor(features.frame.original) - 0.5
    inside = ((centres >= -0.5) & (centres <= limit)).all(-1)
    vectors = torch.nn.functional.normalize(tensor.float().flatten(1).T, dim=1, eps=1e-12)
    return vectors[inside.to(vectors.device)], centres[inside]


def pick(features: FeatureMap, activation: str | None) -> Tensor:
    """The named map, or the only one."""
    return features.tensor if activation is None else features[activation]


def need_features(*values: object) -> None:
    """Raise if one is something else, a picture for instance."""
    for value in values:
        if not isinstance(value, FeatureMap):
            raise InvalidValueError(
                f"Features of pictures are compared, not {type(value).__name__}: take extractor.extract(picture)[0]."
            )


def check_same_recipe(source: FeatureMap, target: FeatureMap) -> None:
    """Raise if these are no features, or say that they are of different recipes."""
    need_features(source, target)
    one, other = source.provenance.get("recipe_hash"), target.provenance.get("recipe_hash")
    if one and other and one != other:
        names = source.provenance.get("recipe", one[:12]), target.provenance.get("recipe", other[:12])
        raise InvalidValueError(
            f"{source.image} was extracted by recipe {names[0]!r} ({one[:8]}), {target.image} by "
            f"{names[1]!r} ({other[:8]}): their features cannot be compared. Extract both by one recipe."
        )


def check_points(points: Tensor | Sequence, frame: Frame) -> Tensor:
    """Points as (n, 2) float64 on the CPU.

    Raises:
        InvalidValueError: Another shape, a NaN, or a point outside the picture.
    """
    try:
        asked = torch.as_tensor(points, dtype=torch.float64).cpu()
    except (TypeError, ValueError):
        raise InvalidValueError(f"Points must be an (n, 2) list of (x, y), got {shown(points)}.") from None
    if asked.ndim != 2 or asked.shape[1] != 2:
        raise InvalidValueError(f"Points must be an (n, 2) list of (x, y), got shape {tuple(asked.shape)}.")
    if not torch.isfinite(asked).all():
        row = int((~torch.isfinite(asked)).any(1).nonzero()[0])
        raise InvalidValueError(f"Point {row} is not a number: {asked[row].tolist()}.")
    width, height = frame.original
    outside = outside_picture(asked, (width, height))
    if outside.any():
        row = int(outside.nonzero()[0])
        raise InvalidValueError(
            f"Point {row} ({asked[row, 0]:g}, {asked[row, 1]:g}) lies outside the source picture of "
            f"{width}×{height} pixels. Coordinates are (x, y) from (0, 0) to ({width - 1}, {height - 1})."
        )
    return asked


def outside_picture(points: Tensor, size: tuple[int, int]) -> Tensor:
    """(n,) bool: which points (x, y) lie on no pixel of a (width, height) picture."""
    limit = points.new_tensor(size) - 0.5
    return ((points < -0.5) | (points > limit)).any(-1)
