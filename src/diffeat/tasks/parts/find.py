"""Parts of pictures, by features or by self-attention.

A method gives each place of the grid a part. A part's map is the scalar product of every place with the mean of the
unit-length features of the part's places (DiffCut's last step, which is linear, so maps can be enlarged instead of
features); merged attention is a map as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffeat.activations import Catalogue
from diffeat.activations.attended import Attended, AttentionTaps
from diffeat.ambient import neutral
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.extraction import Extractor
from diffeat.extraction.attending import check_attending, frame_of, passes
from diffeat.features import FeatureMap, Picture
from diffeat.progress import Progress, silent
from diffeat.tasks.parts.affinity import affinity_of
from diffeat.tasks.parts.cuts import Isolated, normalised_cuts
from diffeat.tasks.parts.merging import THRESHOLDS, AttentionRows, merge_by_divergence
from diffeat.tasks.scored import ScoredMaps, of_one_colour

#: Parts of k-means where no number is given.
_CLUSTERS = 6


@dataclass(frozen=True)
class PartOptions:
    """How parts are found.

    Attributes:
        method: One of :data:`METHODS`.
        parts: How many; the method decides if not given.
        threshold: Granularity instead of a number: of cuts the cost from which a part stays whole (published: 0.5), of
            merging the divergence below which maps are one (published: 0.9 or 1.1).
        alpha: Exponent of affinities (cuts).
        isolated: See :func:`~diffeat.tasks.parts.cuts.normalised_cuts`; ``"drop"`` is the published way.
        memory: Bytes that a graph may take; larger ones are approximated (cuts).
        seed: Of k-means.

    Raises:
        UnknownNameError: No such method.
        InvalidValueError: A value out of range, or both a number and a threshold, or an option the method does not use.
    """

    method: str = "cuts"
    parts: int | None = None
    threshold: float | None = None
    alpha: float = 10
    isolated: Isolated = "keep"
    memory: int = 2**30
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UnknownNameError(f"There is no method {self.method!r}. {did_you_mean(self.method, METHODS)}".rstrip())
        if self.parts is not None and self.threshold is not None:
            raise InvalidValueError("Give a number of parts or a threshold, not both.")
        if self.parts is not None and not 1 <= self.parts <= 255:
            raise InvalidValueError(f"A picture is split into 1 to 255 parts, not {self.parts}.")
        if self.parts is not None and self.method == "merging":
            raise InvalidValueError("Merging finds the number of parts itself: give --threshold, or another method.")
        if self.threshold is not None and self.method == "kmeans":
            raise InvalidValueError("k-means takes a number of parts, no threshold.")
        most = 2 if self.method == "cuts" else sys.float_info.max
        if self.threshold is not None and not 0 < self.threshold <= most:
            end = " and at most 2, the most that a cut can cost" if self.method == "cuts" else " and finite"
            raise InvalidValueError(f"A threshold is above 0{end}, not {self.threshold:g}.")
        if not 0 < self.alpha < 1000:
            raise InvalidValueError(f"Affinities take an exponent above 0 and below 1000, not {self.alpha:g}.")


def _by_cuts(rows: np.ndarray, options: PartOptions, progress: Progress) -> np.ndarray:
    affinity = affinity_of(rows, options.alpha, options.memory)
    if affinity is None:
        return np.zeros(len(rows), dtype=np.intp)
    return normalised_cuts(affinity, options.threshold, options.parts, options.isolated, progress).labels


def _by_kmeans(rows: np.ndarray, options: PartOptions, progress: Progress) -> np.ndarray:
    from scipy.cluster.vq import kmeans2

    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    count = min(options.parts or _CLUSTERS, len(np.unique(unit, axis=0)))
    _, labels = kmeans2(unit.astype(np.float64), count, minit="++", rng=options.seed, missing="warn")
    return labels


Method = Callable[[np.ndarray, PartOptions, Progress], np.ndarray]
#: What gives every row of features a part; ``merging`` reads self-attention instead.
METHODS: dict[str, Method | None] = {
    "cuts": _by_cuts,
    "kmeans": _by_kmeans,
    "merging": None,
}


@neutral()
def parts_of(
    features: Sequence[FeatureMap],
    options: PartOptions | None = None,
    *,
    together: bool = False,
    progress: Progress = silent,
) -> list[ScoredMaps]:
    """Parts of pictures by their features.

    Args:
        features: One map each.
        together: Split all pictures as one, so that a part has one number in all of them (co-segmentation).

    Returns:
        For each picture its parts; with ``together`` all have the same, though not every one occurs in every picture.

    Raises:
        InvalidValueError: Features with several maps, or of different channels.
    """
    options = options or PartOptions()
    method = METHODS[options.method]
    if method is None:
        raise InvalidValueError(f"{options.method!r} reads self-attention, not features: use attention_parts.")
    if not together:
        return [maps for feature in features for maps in _split([feature], method, options, progress)]
    if len({feature.tensor.shape[0] for feature in features}) > 1:
        raise InvalidValueError("Pictures are split together by one recipe; these features differ in channels.")
    return _split(features, method, options, progress)


def _split(
    features: Sequence[FeatureMap], method: Method, options: PartOptions, progress: Progress
) -> list[ScoredMaps]:
    units = [F.normalize(feature.tensor.detach().float().cpu(), dim=0) for feature in features]
    inside = [_content(feature, unit.shape[-2:]) for feature, unit in zip(features, units, strict=True)]
    rows = torch.cat([unit.flatten(1).T[kept] for unit, kept in zip(units, inside, strict=True)])
    labels = torch.from_numpy(np.asarray(method(rows.numpy(), options, progress), dtype=np.int64))
    labels = torch.unique(labels, return_inverse=True)[1]
    count = int(labels.max()) + 1
    means = torch.zeros(count, rows.shape[1]).index_add_(0, labels, rows) / labels.bincount()[:, None]
    names = tuple(str(k + 1) for k in range(count))
    found = (f"{options.method}: {count} parts",)
    if count == 1 and options.parts != 1:
        differ = options.threshold is not None and bool((rows - rows[0]).abs().max() > 2e-3)
        found += ("no cut costs less than the threshold" if differ else "nothing in the features tells places apart",)
    return [
        ScoredMaps(names, torch.einsum("kc,chw->khw", means, unit), feature.frame, feature.image, found)
        for feature, unit in zip(features, units, strict=True)
    ]


def _content(feature: FeatureMap, grid: Sequence[int]) -> Tensor:
    """Which cells, row by row, see more than padding."""
    top, left, height, width = feature.frame.content_cells((grid[0], grid[1]))
    inside = torch.zeros(*grid, dtype=torch.bool)
    inside[top : top + height, left : left + width] = True
    return inside.flatten()


@neutral()
def attention_parts(source: Extractor, picture: Picture, options: PartOptions | None = None) -> ScoredMaps:
    """Parts of a picture by merging the self-attention of the model, under the recipe's own text.

    Raises:
        InvalidValueError: The recipe walks or has techniques, or the model has no self-attention.
    """
    check_attending(source.recipe)
    options = options or PartOptions("merging")
    recipe, backbone = source.recipe, source.backbone
    ids = self_attentions(backbone)
    proposals = []
    thresholds = THRESHOLDS if options.threshold is None else (options.threshold,) * len(THRESHOLDS)
    with torch.no_grad(), backbone.ready():
        layers: list[Attended] = []

        def keep(attended: Attended) -> Tensor:
            layers.append(attended)
            return torch.empty(0)

        with AttentionTaps(backbone.denoiser, ids, keep) as taps:
            for inputs in passes(recipe, backbone, picture, recipe.text_for(picture.text)):
                taps.run(**inputs)
        proposals = merge_by_divergence(AttentionRows(layers), thresholds)
    names = tuple(str(k + 1) for k in range(len(proposals)))
    notes = (f"merging: {len(names)} parts from {len(ids)} layers", *of_one_colour(picture.image))
    return ScoredMaps(names, proposals, frame_of(recipe, backbone, picture), picture.name, notes)


def self_attentions(backbone: object) -> list[str]:
    """Ids of the maps that image tokens have of each other.

    Raises:
        InvalidValueError: The model has none.
    """
    catalogue = Catalogue.of(backbone)
    ids = [a.id for a in catalogue if a.id.endswith((".attn1.map", ".self_map"))]
    if not ids:
        raise InvalidValueError("This model has no self-attention whose maps can be read (linear attention has none).")
    return ids
