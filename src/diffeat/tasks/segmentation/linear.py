r"""A linear classifier of pixels, regularised, in closed form (:mod:`diffeat.tasks.ridge`).

A pixel's features are :math:`u^TX`, with the cells X (cells, channels) of a native grid and the bilinear weights u of
its corners. Sums over pixels are therefore sums over pairs of cells: :math:`Z^TZ = X^T(U^TU)X`, where :math:`U^TU` is
sparse (a cell shares pixels with its neighbours only). This is exact and needs as many cells as there are, not as many
pixels: an eleventh of the time, or less, where every pixel is labelled. Memory is channels squared. The strength of the
regularisation is chosen on pictures left out, each class counting alike, and the weights are then solved with all.
Scores are linear in the features too: they are computed on the native grids and enlarged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.tasks.ridge import RidgeSums, best_sharpness, best_strength
from diffeat.tasks.segmentation.ensemble import Labelling
from diffeat.tasks.segmentation.pixels import PictureMaps, TrainingPixels

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_HOLD_OUT = 4


class LinearProbe:
    """See the module docstring.

    Args:
        strengths: To choose from, on every fourth picture; a single one is taken as it is.

    Attributes:
        weight: (classes, channels), once it is trained.
        bias: (classes,); minus infinity for a class that no training picture shows.
        sharpness: What scores are multiplied by for their softmax to be probabilities.
    """

    def __init__(self, classes: int, strengths: Sequence[float] = STRENGTHS) -> None:
        if not strengths or not all(s > 0 for s in strengths):
            raise InvalidValueError(f"Strengths of regularisation are positive, got {list(strengths)}.")
        self.classes = classes
        self.strengths = tuple(strengths)
        self.strength: float | None = None
        self.sharpness = 1.0
        self.weight = self.bias = torch.empty(0)

    def fit(self, pixels: TrainingPixels) -> LinearProbe:
        """Choose the strength and solve; returns itself."""
        numbers = range(len(pixels.maps))
        out = [k for k in numbers if k % _HOLD_OUT == _HOLD_OUT - 1 and pixels.labels[pixels.of_picture(k)].numel()]
        held = self._sums(pixels, out)
        rest = self._sums(pixels, set(numbers) - set(out))
        everything = held + rest
        self.strength = self.strengths[0]

        def scored(weight: Tensor, bias: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
            for k in out or numbers:
                own = pixels.of_picture(k)
                yield pixels.maps[k].project(weight).at(pixels.y[own], pixels.x[own]) + bias, pixels.labels[own]

        learned = rest if out and rest.counts.any() else everything
        if learned is rest and len(self.strengths) > 1:
            self.strength = best_strength(rest, self.strengths, scored)
        self.sharpness = best_sharpness(scored(*learned.solve(self.strength)))
        self.weight, self.bias = everything.solve(self.strength)
        return self

    def _sums(self, pixels: TrainingPixels, numbers: Iterable[int]) -> RidgeSums:
        sums = RidgeSums(pixels.channels, self.classes)
        for k in numbers:
            own = pixels.of_picture(k)
            add_picture(sums, pixels.maps[k], pixels.y[own], pixels.x[own], pixels.labels[own])
        return sums

    @torch.no_grad()
    def predict(self, picture: PictureMaps) -> Labelling:
        """Labels at the picture's own resolution."""
        if not self.weight.numel():
            raise InvalidValueError("The probe is not trained: call fit first.")
        scores = picture.project(self.weight)
        height, width = picture.size
        step = max(1, (1 << 22) // (width * self.classes))
        parts = [
            (scores.rows(start, min(height, start + step)) + self.bias[:, None, None]).argmax(0)
            for start in range(0, height, step)
        ]
        return Labelling(torch.cat(parts))


def add_picture(sums: RidgeSums, picture: PictureMaps, y: Tensor, x: Tensor, labels: Tensor) -> None:
    """Add some pixels of a picture, at places ``y``, ``x``."""
    from scipy.sparse import csr_array

    classes, n = len(sums.counts), len(labels)
    cells = [m.values.flatten(1).T.contiguous() for m in picture.maps]
    reads = []
    for m, x_cells in zip(picture.maps, cells, strict=True):
        corners, shares = m.corners(y, x)
        reads.append(
            csr_array(
                (shares.T.numpy().ravel(), corners.T.numpy().ravel(), np.arange(0, 4 * n + 1, 4)), (n, len(x_cells))
            )
        )
    truth = csr_array((np.ones(n), labels.numpy(), np.arange(n + 1)), (n, classes))
    ends = np.cumsum([0, *(c.shape[1] for c in cells)])
    gram = torch.zeros(int(ends[-1]), int(ends[-1]), dtype=torch.float64)
    cross = torch.zeros(classes, int(ends[-1]), dtype=torch.float64)
    for i, (read, mine) in enumerate(zip(reads, cells, strict=True)):
        here = slice(int(ends[i]), int(ends[i + 1]))
        cross[:, here] = torch.from_numpy((truth.T @ read).toarray()) @ mine.double()
        for j in range(i, len(cells)):
            there = slice(int(ends[j]), int(ends[j + 1]))
            small, large = (i, j) if len(mine) <= len(cells[j]) else (j, i)  # multiplied on the coarser of the two
            shared = (reads[small].T @ reads[large]).astype(np.float32)
            block = (cells[small].T @ torch.from_numpy(shared @ cells[large].numpy())).double()
            gram[here, there] = block if small == i else block.T
            if j > i:
                gram[there, here] = gram[here, there].T
    sums.add_sums(gram, cross, torch.bincount(labels, minlength=classes).double())
