r"""Statistics of channels over tokens and images, in one pass and without keeping activations.

For every channel: mean :math:`|x|`, mean, standard deviation and largest :math:`|x|` over all tokens of all images,
and mean :math:`|x|` within each image (C numbers an image). A histogram of :math:`\log_2 |x|` over everything gives
the median :math:`|x|` to within 2 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import InvalidValueError

_OCTAVE = 32  # bins
_LOW, _HIGH = -64, 64


class ChannelStatistics:
    """Running statistics. Feed images one by one, then read the attributes.

    Args:
        channels: Number of channels.
    """

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self.tokens = 0
        self._sums = torch.zeros(3, channels, dtype=torch.float64)  # of |x|, x, x²
        self._largest = torch.zeros(channels)
        self._images: list[Tensor] = []
        self._bins = torch.zeros((_HIGH - _LOW) * _OCTAVE, dtype=torch.int64)

    @property
    def images(self) -> int:
        """Images seen."""
        return len(self._images)

    def update(self, tokens: Float[Tensor, "n c"]) -> None:
        """Add the tokens of one image.

        Raises:
            InvalidValueError: If the channels do not fit, or a value is not finite.
        """
        if tokens.shape[-1] != self.channels:
            raise InvalidValueError(f"The statistics are of {self.channels} channels, the tokens have {tokens.shape}.")
        if not torch.isfinite(tokens).all():
            raise InvalidValueError("The tokens hold NaN or infinite values; statistics of them mean nothing.")
        x = tokens.detach().to("cpu", torch.float64)
        size = x.abs()
        self._sums += torch.stack([size.sum(0), x.sum(0), x.square().sum(0)])
        self._largest = torch.maximum(self._largest, size.amax(0).float())
        self._images.append(size.mean(0).float())
        self.tokens += len(x)
        place = ((size.clamp(min=2.0**_LOW).log2() - _LOW) * _OCTAVE).floor().long().clamp(max=len(self._bins) - 1)
        self._bins += torch.bincount(place.flatten(), minlength=len(self._bins))

    @property
    def mean_abs(self) -> Tensor:
        """Mean of |x|, ``(C,)``."""
        return (self._sums[0] / self._seen()).float()

    @property
    def mean(self) -> Tensor:
        """Mean, ``(C,)``."""
        return (self._sums[1] / self._seen()).float()

    @property
    def std(self) -> Tensor:
        """Standard deviation over all tokens of all images, ``(C,)``."""
        mean = self._sums[1] / self._seen()
        return (self._sums[2] / self._seen() - mean.square()).clamp(min=0).sqrt().float()

    @property
    def largest(self) -> Tensor:
        """Largest |x|, ``(C,)``."""
        return self._largest

    @property
    def by_image(self) -> Tensor:
        """Mean of |x| within each image, ``(images, C)``."""
        self._seen()
        return torch.stack(self._images)

    @property
    def median_abs(self) -> float:
        """Median of |x| over tokens and channels, to within 2 %."""
        self._seen()
        half = self._bins.cumsum(0) * 2 >= self._bins.sum()
        return float(2 ** ((int(half.int().argmax()) + 0.5) / _OCTAVE + _LOW))

    @property
    def peak_ratio(self) -> float:
        """Largest |x| over median |x|, the measure of Sun et al. (arXiv:2402.17762)."""
        return float(self._largest.max()) / self.median_abs

    def energy_share(self, channels: Sequence[int]) -> float:
        """Share of Σx² that lies in the channels."""
        self._seen()
        energy = self._sums[2]
        return float(energy[list(channels)].sum() / energy.sum().clamp(min=1e-300))

    @property
    def gini(self) -> float:
        """Inequality of the channels' mean |x|: 0 when all are equal, near 1 when few hold everything."""
        sorted_ = self.mean_abs.double().sort().values
        rank = torch.arange(1, self.channels + 1, dtype=torch.float64)
        total = sorted_.sum().clamp(min=1e-300)
        return float((2 * (rank * sorted_).sum() / total - self.channels - 1) / self.channels)

    def top(self, count: int) -> list[int]:
        """The channels of largest mean |x|, largest first."""
        return self.mean_abs.topk(min(count, self.channels)).indices.tolist()

    def stability(self, count: int) -> float:
        """Mean Jaccard overlap of the images' ``count`` largest channels, over all pairs of images (1: the same).

        Raises:
            InvalidValueError: For fewer than two images.
        """
        if self.images < 2:
            raise InvalidValueError("Stability over images takes two images or more; one image cannot tell it.")
        return jaccard([row.topk(min(count, self.channels)).indices.tolist() for row in self.by_image])

    def _seen(self) -> int:
        if not self.tokens:
            raise InvalidValueError("No image has been added to the statistics.")
        return self.tokens


def jaccard(sets: Sequence[Sequence[int]]) -> float:
    """Mean of |A ∩ B| / |A ∪ B| over all pairs of sets; 1 for fewer than two sets and for pairs of empty ones."""
    pairs = [(set(a), set(b)) for a, b in combinations(sets, 2)]
    if not pairs:
        return 1.0
    return sum(len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs) / len(pairs)
