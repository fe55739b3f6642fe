r"""Regularised linear classification in closed form, from sums over samples.

With standardised features :math:`z` and targets :math:`y_k = \pm1` for every class, the weights solve

.. math:: (Z^TZ/n + \lambda I)\,w = Z^TY/n

and the class with the highest score wins. Only :math:`Z^TZ` is kept (C², float64), however many samples there are.

Scores are no probabilities. Multiplied by a sharpness, the one that makes the labels of samples left out likeliest,
their softmax is (temperature scaling; Guo et al., ICML 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


class RidgeSums:
    """Sums over samples that the solution follows from."""

    def __init__(self, channels: int, classes: int) -> None:
        self._gram = torch.zeros(channels, channels, dtype=torch.float64)
        self._cross = torch.zeros(classes, channels, dtype=torch.float64)
        self._total = torch.zeros(channels, dtype=torch.float64)
        self.counts = torch.zeros(classes, dtype=torch.float64)

    def add(self, features: Float[Tensor, "n c"], labels: Int[Tensor, " n"]) -> None:
        self._gram += (features.T @ features).double()
        self._cross.index_add_(0, labels, features.double())
        self._total += features.double().sum(0)
        self.counts += torch.bincount(labels, minlength=len(self.counts))

    def add_sums(self, gram: Float[Tensor, "c c"], cross: Float[Tensor, "k c"], counts: Float[Tensor, " k"]) -> None:
        """Samples that are summed up already: ZᵀZ, and of every class the sum of features and the count."""
        self._gram += gram
        self._cross += cross
        self._total += cross.sum(0)
        self.counts += counts

    def __add__(self, other: RidgeSums) -> RidgeSums:
        """The sums of the samples of both."""
        both = RidgeSums(len(self._total), len(self.counts))
        for part in (self, other):
            both.add_sums(part._gram, part._cross, part.counts)
        return both

    def __sub__(self, other: RidgeSums) -> RidgeSums:
        """The sums without the samples of ``other``."""
        left = RidgeSums(len(self._total), len(self.counts))
        left.add_sums(self._gram - other._gram, self._cross - other._cross, self.counts - other.counts)
        return left

    def solve(self, strength: float) -> tuple[Float[Tensor, "k c"], Float[Tensor, " k"]]:
        """Weights and biases for plain features; a class without samples is never chosen."""
        n = self.counts.sum()
        mean = self._total / n
        covariance = self._gram / n - torch.outer(mean, mean)
        scale = covariance.diagonal().clamp(min=1e-12).sqrt()
        scale = torch.where(scale > 1e-6 * scale.max(), scale, torch.inf)  # a dead channel says nothing
        system = covariance / scale / scale[:, None]
        system.diagonal().add_(strength)
        share = self.counts / n
        # ±1 targets: Zᵀy = 2 Σ over the class; their mean is 2·share − 1
        right = 2 * (self._cross / n - share[:, None] * mean) / scale
        weight = torch.linalg.solve(system, right.T).T / scale
        bias = 2 * share - 1 - weight @ mean
        return weight.float(), torch.where(self.counts == 0, -torch.inf, bias).float()


#: Scores (n, k) and labels (n,) of samples, some at a time, by weights and biases.
Scored = Callable[[Tensor, Tensor], Iterable[tuple[Tensor, Tensor]]]
_SHARPNESSES = torch.logspace(-3, 7, 41, base=2)
_CALIBRATED = 1 << 14  # samples


def best_strength(sums: RidgeSums, strengths: Sequence[float], held_out: Scored) -> float:
    """The strength that does best on samples that are not in the sums, each class counting alike."""

    def accuracy(strength: float) -> float:
        weight, bias = sums.solve(strength)
        hits, counts = torch.zeros(len(bias)), torch.zeros(len(bias))
        for scores, labels in held_out(weight, bias):
            hits.index_add_(0, labels, (scores.argmax(1) == labels).float())
            counts += torch.bincount(labels, minlength=len(bias))
        return float((hits[counts > 0] / counts[counts > 0]).mean())

    return max(strengths, key=accuracy)


def best_sharpness(scored: Iterable[tuple[Tensor, Tensor]]) -> float:
    """What scores are multiplied by so that their softmax makes the labels likeliest.

    Example:
        >>> scores = torch.tensor([[1.0, -1.0]]).repeat(100, 1)
        >>> round(best_sharpness([(scores, (torch.arange(100) < 12).long())]), 1)  # one in eight is wrong: e² ≈ 7.4
        1.0
    """
    parts = [(scores, labels) for scores, labels in scored]
    scores, labels = (torch.cat([part[k] for part in parts]) for k in (0, 1))
    step = -(-len(labels) // _CALIBRATED)
    scores, labels = scores[::step], labels[::step]
    known = torch.isfinite(scores.gather(1, labels[:, None])[:, 0])  # classes that nothing was learned of
    if not known.any():
        return 1.0
    losses = [torch.nn.functional.cross_entropy(float(s) * scores[known], labels[known]) for s in _SHARPNESSES]
    return float(_SHARPNESSES[int(torch.stack(losses).argmin())])
