"""A linear classifier of pixels, regularised, in closed form (:mod:`diffeat.tasks.ridge`).

Sums are accumulated over chunks of pixels, so memory is channels squared. The strength of the regularisation is chosen
on pictures left out, each class counting alike, and the weights are then solved with all. Scores are linear in the
features: they are computed on the native grids and enlarged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.tasks.ridge import RidgeSums, best_strength
from diffeat.tasks.segmentation.ensemble import Labelling
from diffeat.tasks.segmentation.pixels import PictureMaps, TrainingPixels

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_CHUNK, _HOLD_OUT = 8192, 4


class LinearProbe:
    """See the module docstring.

    Args:
        strengths: To choose from, on every fourth picture; a single one is taken as it is.
    """

    def __init__(self, classes: int, strengths: Sequence[float] = STRENGTHS) -> None:
        if not strengths or not all(s > 0 for s in strengths):
            raise InvalidValueError(f"Strengths of regularisation are positive, got {list(strengths)}.")
        self.classes = classes
        self.strengths = tuple(strengths)
        self.strength: float | None = None
        self._solution: tuple[Tensor, Tensor] | None = None

    def fit(self, pixels: TrainingPixels) -> LinearProbe:
        """Choose the strength and solve; returns itself."""
        out = pixels.pictures % _HOLD_OUT == _HOLD_OUT - 1
        everything = self._sums(pixels, torch.arange(len(pixels)))
        self.strength = self.strengths[0]
        if len(self.strengths) > 1 and out.any() and not out.all():
            left_out = out.nonzero()[:, 0]
            rest = everything - self._sums(pixels, left_out)
            self.strength = best_strength(rest, self.strengths, lambda: _chunks(pixels, left_out))
        self._solution = everything.solve(self.strength)
        return self

    def _sums(self, pixels: TrainingPixels, which: Tensor) -> RidgeSums:
        sums = RidgeSums(pixels.channels, self.classes)
        for features, labels in _chunks(pixels, which):
            sums.add(features, labels)
        return sums

    @torch.no_grad()
    def predict(self, picture: PictureMaps) -> Labelling:
        """Labels at the picture's own resolution."""
        if self._solution is None:
            raise InvalidValueError("The probe is not trained: call fit first.")
        weight, bias = self._solution
        scores = picture.project(weight)
        height, width = picture.size
        step = max(1, (1 << 22) // (width * self.classes))
        parts = [
            (scores.rows(start, min(height, start + step)) + bias[:, None, None]).argmax(0)
            for start in range(0, height, step)
        ]
        return Labelling(torch.cat(parts))


def _chunks(pixels: TrainingPixels, which: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    for some in which.split(_CHUNK):
        yield pixels.features(some), pixels.labels[some]
