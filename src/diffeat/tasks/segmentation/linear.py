"""A linear classifier of pixels, regularised, in closed form (:mod:`diffeat.tasks.ridge`).

Sums are accumulated over chunks of pixels, so memory is channels squared. The strength of the regularisation is chosen
on pictures left out, each class counting alike, and the weights are then solved with all. Scores are linear in the
features: they are computed on the native grids and enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.tasks.ridge import RidgeSums, balanced_accuracy
from diffeat.tasks.segmentation.ensemble import Labelling
from diffeat.tasks.segmentation.pixels import PictureMaps, TrainingPixels

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_CHUNK = 8192


class LinearProbe:
    """See the module docstring.

    Args:
        classes: Number of labels.
        strengths: Strengths to choose from; a single one is taken as it is.
        hold_out: Every which picture is left out to choose.
    """

    def __init__(self, classes: int, strengths: Sequence[float] = STRENGTHS, hold_out: int = 4) -> None:
        if not strengths or not all(s > 0 for s in strengths):
            raise InvalidValueError(f"Strengths of regularisation are positive, got {list(strengths)}.")
        self.classes = classes
        self.strengths = tuple(strengths)
        self._hold_out = hold_out
        self.strength: float | None = None
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None

    def fit(self, pixels: TrainingPixels) -> LinearProbe:
        """Choose the strength and solve; returns itself."""
        out = pixels.pictures % self._hold_out == self._hold_out - 1
        everything = self._sums(pixels, torch.arange(len(pixels)))
        self.strength = self.strengths[0]
        if len(self.strengths) > 1 and out.any() and not out.all():
            left_out = out.nonzero()[:, 0]
            part = everything - self._sums(pixels, left_out)
            scores = [self._score(part.solve(s), pixels, left_out) for s in self.strengths]
            self.strength = self.strengths[max(range(len(scores)), key=scores.__getitem__)]
        self._weight, self._bias = everything.solve(self.strength)
        return self

    def _sums(self, pixels: TrainingPixels, which: Tensor) -> RidgeSums:
        sums = RidgeSums(pixels.channels, self.classes)
        for some in which.split(_CHUNK):
            sums.add(pixels.features(some), pixels.labels[some])
        return sums

    def _score(self, solution: tuple[Tensor, Tensor], pixels: TrainingPixels, which: Tensor) -> float:
        weight, bias = solution
        hits, counts = torch.zeros(self.classes), torch.zeros(self.classes)
        for some in which.split(_CHUNK):
            part = balanced_accuracy(pixels.features(some) @ weight.T + bias, pixels.labels[some])
            hits, counts = hits + part[0], counts + part[1]
        return float((hits[counts > 0] / counts[counts > 0]).mean())

    @torch.no_grad()
    def predict(self, picture: PictureMaps) -> Labelling:
        """Labels at the picture's own resolution."""
        if self._weight is None or self._bias is None:
            raise InvalidValueError("The probe is not trained: call fit first.")
        scores = picture.project(self._weight)
        height, width = picture.size
        step = max(1, (1 << 22) // (width * self.classes))
        parts = [
            (scores.rows(start, min(height, start + step)) + self._bias[:, None, None]).argmax(0)
            for start in range(0, height, step)
        ]
        return Labelling(torch.cat(parts))
