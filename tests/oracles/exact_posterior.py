r"""A denoiser whose every answer is known: the posterior mean over a finite set of images.

For images :math:`x_1 … x_K` with prior weights :math:`\pi_k` and :math:`x_t = a x_0 + s \epsilon`,

.. math:: D(x_t) = \sum_k p_k x_k, \qquad p_k \propto \pi_k \exp\left(-\frac{\lVert x_t - a x_k \rVert^2}{2 s^2}\right)

is the Bayes-optimal reconstruction, and a technique is what it tells about the picture: a change of the prior. When the
picture is drawn from the prior, true information can only lower the expected shift
:math:`E \lVert x_0 - D(x_t) \rVert^2` (law of total variance); guidance extrapolates and has no such promise; wrong
information raises it. So it is known what GATE must say of each technique, without any weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

_CLASSES = 3
_DOMAINS = 2


@dataclass(frozen=True)
class Bank:
    """Procedural pictures: a disk, a square or a cross, bright on dark or dark on bright.

    Attributes:
        images: ``(k, pixels)`` in [-1, 1].
        classes: Shape of each, 0 to 2.
        domains: 0 bright on dark, 1 dark on bright.
        side: Height and width.
    """

    images: Float[Tensor, "k n"]
    classes: Int[Tensor, " k"]
    domains: Int[Tensor, " k"]
    side: int

    @property
    def edges(self) -> Float[Tensor, "k n"]:
        """Length of the gradient at every pixel."""
        x = self.images.reshape(-1, 1, self.side, self.side)
        dy = F.pad(x[..., 1:, :] - x[..., :-1, :], (0, 0, 0, 1))
        dx = F.pad(x[..., :, 1:] - x[..., :, :-1], (0, 1, 0, 0))
        return (dx.square() + dy.square()).sqrt().flatten(1)


def shapes_bank(count: int = 2000, side: int = 20, seed: int = 0) -> Bank:
    """Draw a bank."""
    g = torch.Generator().manual_seed(seed)
    classes = torch.randint(_CLASSES, (count,), generator=g)
    domains = torch.randint(_DOMAINS, (count,), generator=g)
    centre = side * (0.3 + 0.4 * torch.rand(count, 2, generator=g))
    radius = side * (0.12 + 0.14 * torch.rand(count, generator=g))[:, None, None]
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    dy, dx = (y - centre[:, :1, None]).abs(), (x - centre[:, 1:, None]).abs()
    disk = (dx.square() + dy.square()).sqrt()
    square = torch.maximum(dx, dy)
    cross = torch.minimum(torch.maximum(dx, dy * 3), torch.maximum(dx * 3, dy))
    distance = torch.stack([disk, square, cross])[classes, torch.arange(count)]
    inside = (radius - distance + 0.5).clamp(0, 1)
    low, high = -0.9 + 0.5 * torch.rand(count, generator=g), 0.3 + 0.6 * torch.rand(count, generator=g)
    low, high = low[:, None, None], high[:, None, None]
    fore, back = (
        torch.where(domains[:, None, None] == 0, high, low),
        torch.where(domains[:, None, None] == 0, low, high),
    )
    return Bank((back + (fore - back) * inside).flatten(1), classes, domains, side)


class ExactPosterior:
    """The closed-form denoiser over a bank.

    Args:
        bank: The finite set of images, equally likely.
    """

    def __init__(self, bank: Bank) -> None:
        self.bank = bank

    def denoise(
        self, noisy: Float[Tensor, "b n"], signal: float, noise: float, told: Float[Tensor, "b k"] | None = None
    ) -> Float[Tensor, "b n"]:
        """D(x_t) with the log prior ``told`` (none: all alike)."""
        x = self.bank.images
        logits = (2 * signal * noisy @ x.T - signal**2 * x.square().sum(1)) / (2 * noise**2)
        return (logits if told is None else logits + told).softmax(1) @ x

    def shifts(
        self, queries: Int[Tensor, " q"], seeds: int, signal: float, technique: str = "base", seed: int = 0
    ) -> Float[Tensor, "q s"]:
        """Mean squared shift of pictures of the bank, for several draws; noise depends on ``seed`` alone.

        Args:
            technique: base, prompt, domain, edges, all, wrong prompt, shuffled edges, guidance, null, or other draw
                (the base at other noise: a technique without any effect).
        """
        noise = (1 - signal**2) ** 0.5
        g = torch.Generator().manual_seed(seed + (10_000 if technique == "other draw" else 0))
        clean = self.bank.images[queries]
        columns = []
        for _ in range(seeds):
            eps = torch.randn(clean.shape, generator=g)
            noisy = signal * clean + noise * eps
            if technique == "guidance":
                plain, told = self.denoise(noisy, signal, noise), self._told("prompt", queries)
                found = plain + 7.5 * (self.denoise(noisy, signal, noise, told) - plain)
            else:
                found = self.denoise(noisy, signal, noise, self._told(technique, queries))
            columns.append((found - clean).square().mean(1))
        return torch.stack(columns, 1)

    def _told(self, technique: str, queries: Tensor) -> Tensor | None:
        """The log prior that a technique gives for each query."""
        bank = self.bank
        match technique:
            case "base" | "other draw":
                return None
            case "null":
                return torch.zeros(len(queries), len(bank.images))
            case "prompt":
                return _says(bank.classes[queries], bank.classes)
            case "wrong prompt":
                return _says((bank.classes[queries] + 1) % _CLASSES, bank.classes)
            case "domain":
                return _says(bank.domains[queries], bank.domains)
            case "edges":
                return self._edges(queries)
            case "shuffled edges":
                return self._edges(queries.roll(1))
            case "all":
                return (
                    _says(bank.classes[queries], bank.classes)
                    + _says(bank.domains[queries], bank.domains)
                    + self._edges(queries)
                )
            case _:
                raise ValueError(f"The toy has no technique {technique!r}.")

    def _edges(self, queries: Tensor, tolerance: float = 1.5) -> Tensor:
        """Likelihood of the edges as they are seen through noise: their strength is told, their sign is not."""
        edges = self.bank.edges
        seen = edges[queries] + tolerance * torch.randn(
            len(queries), edges.shape[1], generator=torch.Generator().manual_seed(1)
        )
        return -torch.cdist(seen, edges).square() / (2 * tolerance**2)


def _says(value: Tensor, of_bank: Tensor, trust: float = 0.95) -> Tensor:
    """Log prior of a statement that is believed to this degree."""
    return torch.where(value[:, None] == of_bank[None], trust, 1 - trust).log()
