r"""Quick probes of activations, alone and together, on labelled pictures.

Joining maps that have unit length at every place makes inner products add up:
:math:`\langle f_S(p), f_S(q)\rangle = \sum_{a\in S}\langle f_a(p), f_a(q)\rangle`. All probes here need nothing but
inner products: matching compares a point with all cells of another picture, and ridge classifiers of pixels and of
pictures are solved in their dual form. Products are computed once for every activation; the score of any set is then a
sum of them, and a search over sets reads no features. The strength of a ridge is chosen for every set, on a quarter of
the training pictures: a fixed one would favour sets of the size that it happens to suit.

*Correspondence*: the most similar cell, PCK at 0.1 of the target's box. *Segmentation*: ridge on a few hundred pixels,
mIoU on sampled pixels of other pictures. *Parts*: normalised cuts, which take the sum of cosines as it is, on a coarse
grid. *Classification*: ridge on averaged maps, accuracy. They rank; numbers to
quote come from the tasks themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.datasets.labelled import IGNORE, ClassSample, MaskSample
from diffeat.datasets.pairs import PointPair
from diffeat.errors import InvalidValueError
from diffeat.features import FeatureMap
from diffeat.refinement import normalise_channels, resize_map
from diffeat.studies.selection.score import Score, ratio
from diffeat.tasks.classification import pooled_features
from diffeat.tasks.correspondence.axis import cell_centres, sample_descriptors
from diffeat.tasks.masks import assigned, mask_counts, mask_miou
from diffeat.tasks.parts.affinity import affinity_of_cosines
from diffeat.tasks.parts.cuts import normalised_cuts
from diffeat.tasks.segmentation.confusion import Confusion
from diffeat.tasks.segmentation.pixels import PictureMaps, TrainingPixels

#: Gives the features of a picture file (or array) with all candidates.
Load = Callable[..., FeatureMap]
ALPHA = 0.1
#: Strengths of a ridge to choose from, in units of the mean squared length of a sample.
_STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
#: Training pixels in all, and pixels of a picture that is scored.
_PIXELS, _CHECKED = 900, 200
#: Cells a side on which parts are cut, and pictures at most: every set that is tried is cut anew.
_PART_CELLS, _PART_PICTURES = 12, 16


class Probe(Protocol):
    """Scores sets of activations on one task."""

    name: str

    def score(self, ids: Sequence[str]) -> Score: ...


class CorrespondenceProbe:
    """Matching of annotated points, on a grid of cells (h, w)."""

    name = "correspondence"

    def __init__(self, pairs: Sequence[PointPair], ids: Sequence[str], load: Load, grid: tuple[int, int]) -> None:
        if not pairs:
            raise InvalidValueError("There is no pair to probe correspondence with.")
        self._products: dict[str, list[Tensor]] = {id: [] for id in ids}
        self._errors: list[Tensor] = []
        for pair in pairs:
            source, target = load(pair.source), load(pair.target)
            points = torch.tensor(pair.source_points, dtype=torch.float64)
            truth = torch.tensor(pair.target_points, dtype=torch.float64)
            places = source.frame.points_to_grid(points, grid)
            for id in ids:
                one, other = (normalise_channels(resize_map(f[id].float(), grid)) for f in (source, target))
                self._products[id].append((sample_descriptors(one, places) @ other.flatten(1)).half())
            box = pair.target_box
            length = max(box[2] - box[0], box[3] - box[1]) if box else max(target.frame.original)
            self._errors.append(torch.cdist(truth, cell_centres(target.frame, grid)) / max(length, 1e-6))

    def score(self, ids: Sequence[str]) -> Score:
        units = []
        for k, errors in enumerate(self._errors):
            total = torch.stack([self._products[id][k].float() for id in ids]).sum(0)
            found = errors.gather(1, total.argmax(1, keepdim=True))
            units.append([float((found <= ALPHA).double().mean()), 1.0])
        return Score(np.array(units), ratio)


class _Ridge:
    """Ridge classification in dual form; products of standardised features, kept by activation."""

    def __init__(self, labels: Tensor, classes: int, held_out: Tensor) -> None:
        self._labels = labels
        self._targets = 2 * torch.nn.functional.one_hot(labels, classes).double() - 1
        self._held_out = held_out
        self._inner: dict[str, Tensor] = {}
        self._outer: dict[str, Tensor] = {}

    def add(self, id: str, train: Float[Tensor, "n c"], test: Float[Tensor, "m c"]) -> None:
        mean, scale = train.mean(0), train.std(0, correction=0)
        scale = torch.where(scale > 1e-6 * scale.max(), scale, torch.inf)
        z, t = (train - mean) / scale, (test - mean) / scale
        self._inner[id], self._outer[id] = z @ z.T, t @ z.T

    def predict(self, ids: Sequence[str]) -> Tensor:
        inner = torch.stack([self._inner[id] for id in ids]).sum(0).double()
        outer = torch.stack([self._outer[id] for id in ids]).sum(0).double()
        return self._guess(inner, outer, self._targets, self._strength(inner))

    def _strength(self, inner: Tensor) -> float:
        out, kept = self._held_out, ~self._held_out
        if not out.any() or not kept.any():
            return _STRENGTHS[1]
        system, outer = inner[kept][:, kept], inner[out][:, kept]
        truth, right = self._labels[out], []
        for strength in _STRENGTHS:
            found = self._guess(system, outer, self._targets[kept], strength)
            # the mean over classes: most pixels are background
            right.append(float(np.mean([(found[truth == c] == c).double().mean() for c in truth.unique()])))
        return _STRENGTHS[int(np.argmax(right))]

    def _guess(self, inner: Tensor, outer: Tensor, targets: Tensor, strength: float) -> Tensor:
        system = inner.clone()
        system.diagonal().add_(strength * inner.diagonal().mean().clamp(min=1e-9))
        mean = targets.mean(0)
        scores = outer @ torch.linalg.solve(system, targets - mean) + mean
        absent = (targets < 0).all(0)
        return scores.masked_fill(absent, -torch.inf).argmax(1)


class SegmentationProbe:
    """Labels of pixels of ``test``, learned from ``train``."""

    name = "segmentation"

    def __init__(
        self,
        train: Sequence[MaskSample],
        test: Sequence[MaskSample],
        classes: int,
        ids: Sequence[str],
        load: Load,
        seed: int = 0,
    ) -> None:
        self._classes = classes
        learn = _pixels(train, classes, load, ids, max(8, _PIXELS // max(1, len(train))), 20, seed)
        check = _pixels(test, classes, load, ids, _CHECKED, 0, seed + 1)
        self._truth, self._picture = check.labels.numpy(), check.pictures.numpy()
        self._ridge = _Ridge(learn.labels, classes, learn.pictures % 4 == 0)
        one, other = (p.features(torch.arange(len(p))) for p in (learn, check))
        widths = [load(train[0].image)[id].shape[0] for id in ids]
        for id, a, b in zip(ids, one.split(widths, 1), other.split(widths, 1), strict=True):
            self._ridge.add(id, a, b)

    def score(self, ids: Sequence[str]) -> Score:
        predicted = self._ridge.predict(ids).numpy()
        k = self._classes
        units = np.zeros((self._picture.max() + 1, k * k))
        np.add.at(units, (self._picture, self._truth * k + predicted), 1)
        return Score(units, lambda sums: 100 * Confusion(k, sums.reshape(k, k)).miou)


class PartsProbe:
    """Normalised cuts of each picture into as many parts as its label map shows, on a coarse grid; mIoU of the classes
    that parts are assigned to (:mod:`diffeat.tasks.masks`).
    """

    name = "parts"

    def __init__(self, pictures: Sequence[MaskSample], classes: int, ids: Sequence[str], load: Load) -> None:
        self._classes = classes
        self._cosines: dict[str, list[Tensor]] = {id: [] for id in ids}
        self._truth: list[np.ndarray] = []
        grid = (_PART_CELLS, _PART_CELLS)
        for sample in pictures[:_PART_PICTURES]:
            features = load(sample.image)
            labels = torch.from_numpy(sample.labels(classes))
            self._truth.append(features.frame.map_from_original(labels, grid, mode="nearest").numpy())
            for id in ids:
                unit = normalise_channels(resize_map(features[id].float(), grid)).flatten(1)
                self._cosines[id].append(unit.T @ unit)

    def score(self, ids: Sequence[str]) -> Score:
        units = []
        for k, truth in enumerate(self._truth):
            there = len(np.unique(truth[truth != IGNORE]))
            cosines = torch.stack([self._cosines[id][k] for id in ids]).mean(0).double().numpy()
            affinity = affinity_of_cosines(cosines)
            parts = np.zeros(truth.size, np.intp)
            if affinity is not None and there > 1:
                parts = normalised_cuts(affinity, parts=there).labels
            found = assigned(truth, parts.reshape(truth.shape), self._classes)
            units.append(mask_counts(truth, found, self._classes).ravel())
        return Score(np.array(units, float), lambda sums: float(mask_miou(sums.reshape(1, self._classes, 3))[0]))


class ClassificationProbe:
    """Classes of pictures from averaged maps."""

    name = "classification"

    def __init__(
        self, train: Sequence[ClassSample], test: Sequence[ClassSample], classes: int, ids: Sequence[str], load: Load
    ) -> None:
        self._truth = torch.tensor([s.label for s in test])
        labels = torch.tensor([s.label for s in train])
        turn = (labels[:, None] == labels).tril(-1).sum(1)  # how many of its class came before
        self._ridge = _Ridge(labels, classes, turn % 4 == 3)
        one, other = (_pooled(samples, ids, load) for samples in (train, test))
        for id in ids:
            self._ridge.add(id, one[id], other[id])

    def score(self, ids: Sequence[str]) -> Score:
        right = (self._ridge.predict(ids) == self._truth).double().numpy()
        return Score(np.stack([right, np.ones_like(right)], 1), ratio)


class CoverageProbe:
    """For want of labels: how much of what the good candidates say a set says too.

    Every candidate counts by its quality, the product of (1 − noise in the low band), (1 − position) and (1 − dead
    channels), and is covered as far as the chosen activation most alike by CKA.
    """

    name = "coverage"

    def __init__(self, quality: Mapping[str, float], alike: Callable[[str, str], float]) -> None:
        self._ids = list(quality)
        self._quality = np.array([quality[id] for id in self._ids])
        self._alike = {id: np.array([alike(other, id) for other in self._ids]) for id in self._ids}

    def score(self, ids: Sequence[str]) -> Score:
        best = np.max([self._alike[id] * self._quality[self._ids.index(id)] for id in ids], axis=0)
        return Score(np.stack([self._quality * best, self._quality], 1), ratio)


def _normalised(features: FeatureMap, ids: Sequence[str]) -> FeatureMap:
    maps = {id: normalise_channels(features[id].float()) for id in ids}
    return FeatureMap(maps, features.frame, features.image, features.digest)


def _pixels(
    samples: Sequence[MaskSample], classes: int, load: Load, ids: Sequence[str], most: int, rare: int, seed: int
) -> TrainingPixels:
    pictures = [PictureMaps.of(_normalised(load(s.image), ids), ids) for s in samples]
    truths = [s.labels(classes, (p.size[1], p.size[0])) for s, p in zip(samples, pictures, strict=True)]
    return TrainingPixels(pictures, truths, rare=rare, most=most, balanced=rare > 0, seed=seed)


def _pooled(samples: Sequence[ClassSample], ids: Sequence[str], load: Load) -> dict[str, Tensor]:
    rows: dict[str, list[Tensor]] = {id: [] for id in ids}
    for sample in samples:
        features = _normalised(load(sample.image), ids)
        for id in ids:
            rows[id].append(pooled_features(features, [id]))
    return {id: torch.stack(values) for id, values in rows.items()}
