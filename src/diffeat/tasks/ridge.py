r"""Regularised linear classification in closed form, from sums over samples.

With standardised features :math:`z` and targets :math:`y_k = \pm1` for every class, the weights solve

.. math:: (Z^TZ/n + \lambda I)\,w = Z^TY/n

and the class with the highest score wins. Only :math:`Z^TZ` is kept (C², float64), however many samples there are.
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

    def __sub__(self, other: RidgeSums) -> RidgeSums:
        """The sums without the samples of ``other``."""
        left = RidgeSums(len(self._total), len(self.counts))
        left._gram, left._cross = self._gram - other._gram, self._cross - other._cross
        left._total, left.counts = self._total - other._total, self.counts - other.counts
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


def best_strength(
    sums: RidgeSums, strengths: Sequence[float], held_out: Callable[[], Iterable[tuple[Tensor, Tensor]]]
) -> float:
    """The strength that does best on samples that are not in the sums, each class counting alike.

    Args:
        held_out: Batches of their features (n, c) and labels (n,).
    """

    def accuracy(strength: float) -> float:
        weight, bias = sums.solve(strength)
        hits, counts = torch.zeros(len(bias)), torch.zeros(len(bias))
        for features, labels in held_out():
            right = ((features @ weight.T + bias).argmax(1) == labels).float()
            hits.index_add_(0, labels, right)
            counts += torch.bincount(labels, minlength=len(bias))
        return float((hits[counts > 0] / counts[counts > 0]).mean())

    return max(strengths, key=accuracy)
