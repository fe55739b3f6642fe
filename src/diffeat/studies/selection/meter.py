r"""The properties of one activation, accumulated picture by picture; the activation itself is never kept.

Let :math:`x_{id}` be a map of picture i under noise draw d. Every coefficient (a channel at a spatial frequency)
is taken apart into what all pictures share, what belongs to the picture, and what the draw adds:

.. math:: x_{id} = \mu + a_i + e_{id},\qquad
          W = \frac{\sum_{id} |x_{id}-\bar x_i|^2}{N(D-1)},\quad
          B = \frac{\sum_i |\bar x_i-\bar x|^2}{N-1}

with unbiased :math:`\hat\sigma_e^2 = W`, :math:`\hat\sigma_a^2 = B - W/D`, :math:`\hat\mu^2 = |\bar x|^2 - B/N`.
Channels are weighted by one over their total variance, so that a channel of huge values does not speak for all.
Frequencies are counted in cycles per shorter side of the map, the same measure for every grid.

How this answers the paper (Meng et al., NeurIPS 2024, section 4), which judges pictures by eye:

*Asymmetric diffusion noise* is noise of the diffusion process that reaches the low frequencies, near the network's
ends. ``noise`` is :math:`\sigma_e^2/(\sigma_a^2+\sigma_e^2)`: the share of what varies that follows the draw, not the
picture; in all, in the low frequencies (``noise_low``: up to 4 cycles, the same for every grid; the blotches that the
paper sees) and in the finer half of what the map's own grid can show (``noise_fine``: above a quarter of its cells).

*In-resolution granularity* is how fine the content of a map is, which differs between maps of one grid.
``resolution`` is twice the frequency below which 90 % of the picture's own variance :math:`\sigma_a^2` lies (as
many cells a side would do), ``granularity`` the same over the cells there are, and ``halving`` the share of that
variance lost when the map is averaged over 2×2 cells. All exclude the noise, which would pass for detail.

*Locality without positional embedding* is features that say where a pixel is rather than what it is. ``position`` is
:math:`\mu^2/(\mu^2+\sigma_a^2+\sigma_e^2)` without the constant: the share explained by the place alone.
``concentration`` looks at the 5 % of cells most like a cell (cosine, mean over draws, picture's mean removed): one
minus their mean distance over the mean distance of all cells; 0 if they lie anywhere, about 0.8 if they are the
neighbours. What self-attention does about it is the difference between an attention's output and its values, see
:func:`~diffeat.studies.selection.properties.attention_shifts`.

Spectra, similarity and redundancy use at most 64 channels drawn once, fewer on large grids; the facts use all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

#: Upper end of the low band, in cycles per side.
_LOW = 4
_MOST_CHANNELS, _LEAST_CHANNELS, _VALUES = 64, 16, 2**16
_QUERIES, _SIMILARITY_SIDE, _NEAREST = 64, 32, 0.05
_SKETCH = 8
_ENERGY = 0.9
_DEAD, _MASSIVE = 1e-8, 10.0


@dataclass(frozen=True)
class Measured:
    """The numbers of one activation (see the module docstring); ``None`` where its grid is too small."""

    noise: float
    noise_low: float
    noise_fine: float
    resolution: float
    granularity: float
    halving: float | None
    position: float
    concentration: float
    kurtosis: float
    dead: float
    massive: int
    largest: float


class Meter:
    """Accumulates one activation of ``channels`` on a grid (h, w)."""

    def __init__(self, channels: int, grid: tuple[int, int]) -> None:
        h, w = grid
        count = max(_LEAST_CHANNELS, min(_MOST_CHANNELS, _VALUES // (h * w)))
        order = torch.randperm(channels, generator=torch.Generator().manual_seed(0))
        self._chosen = order[:count].sort().values
        self._bins = _radial_bins(h, w)
        self._side = min(h, w)
        self._images = 0
        self._draws = 0
        n, rings = len(self._chosen), self._bins.shape[1]
        self._within = torch.zeros(n, rings, dtype=torch.float64)
        self._power = torch.zeros(n, rings, dtype=torch.float64)
        self._sum = torch.zeros(n, h * (w // 2 + 1), dtype=torch.complex64)
        self._half = _Variance(n)
        self._facts = _Facts(channels, n)
        self._concentration: list[float] = []
        self.sketch: list[Tensor] = []

    @torch.no_grad()
    def add(self, values: Float[Tensor, "d c h w"]) -> Float[Tensor, "n h w"]:
        """Take in all draws of one picture; gives the mean over draws of the chosen channels, for a thumbnail."""
        some = values[:, self._chosen.to(values.device)].float().cpu()
        self._facts.add(values, some)
        self._images += 1
        self._draws = len(values)
        spectrum = torch.fft.rfft2(some, norm="ortho").flatten(2)
        mean = spectrum.mean(0)
        self._within += (_square(spectrum - mean).sum(0) @ self._bins).double()
        self._power += (_square(mean) @ self._bins).double()
        self._sum += mean
        if self._side >= 4:
            halved = F.avg_pool2d(some, 2).flatten(2)
            self._half.add(halved - halved.mean(2, keepdim=True))
        average = some.mean(0)
        self._concentration.append(concentration(average))
        self.sketch.append(F.adaptive_avg_pool2d(average, _SKETCH).flatten(1).T.contiguous())
        return average

    def result(self) -> Measured:
        """The properties over all pictures taken in (at least two, with at least two draws)."""
        n, d = self._images, self._draws
        grand = _square(self._sum / n) @ self._bins
        noise = self._within / (n * (d - 1))
        between = (self._power - n * grand.double()) / (n - 1)
        own = between - noise / d
        place = grand.double() - between / n
        total = (noise + own + place.clamp(min=0))[:, 1:].sum(1) + (noise + own)[:, 0]
        weight = torch.where(total > 1e-12 * total.max().clamp(min=1e-30), 1 / total, 0.0)[:, None]
        noise, own, place = ((part * weight).sum(0) for part in (noise, own, place))
        rings = torch.arange(len(noise), dtype=torch.float64)
        resolution = self._resolution(own)
        rest = own[1:].sum().clamp(min=0)
        dead, massive, largest = self._facts.channels()
        return Measured(
            noise=_share(noise, own),
            noise_low=_share(noise[rings <= _LOW], own[rings <= _LOW]),
            noise_fine=_share(noise[rings > self._side / 4], own[rings > self._side / 4]),
            resolution=resolution,
            granularity=min(1.0, resolution / self._side),
            halving=self._halving(weight[:, 0], rest),
            position=_share(place[1:], noise[1:] + own[1:]),
            concentration=sum(self._concentration) / n,
            kurtosis=self._facts.kurtosis(),
            dead=dead,
            massive=massive,
            largest=largest,
        )

    def _resolution(self, own: Tensor) -> float:
        energy = own[1:].clamp(min=0)
        if energy.sum() <= 0:
            return 0.0
        share = torch.cat([energy.new_zeros(1), (energy / energy.sum()).cumsum(0)])
        high = int(torch.searchsorted(share, _ENERGY).clamp(1, len(share) - 1))
        step = (_ENERGY - share[high - 1]) / (share[high] - share[high - 1]).clamp(min=1e-12)
        edge = lambda ring: ring + 0.5 if ring else 0.0  # noqa: E731
        return 2 * float(edge(high - 1) + step * (edge(high) - edge(high - 1)))

    def _halving(self, weight: Tensor, own: Tensor) -> float | None:
        if self._side < 4 or own <= 0:
            return None
        # a mean of four cells counts for four; only whole pairs of rows and columns take part
        kept = 4 * (self._half.own(self._draws) * weight).sum()
        return float((1 - kept / own).clamp(0, 1))


class _Variance:
    """Variance of coefficients that belongs to the picture, noise taken out."""

    def __init__(self, channels: int) -> None:
        self._within = torch.zeros(channels, dtype=torch.float64)
        self._power = torch.zeros(channels, dtype=torch.float64)
        self._sum: Tensor | float = 0.0
        self._images = 0

    def add(self, values: Tensor) -> None:
        mean = values.mean(0)
        self._within += (values - mean).square().sum((0, 2)).double()
        self._power += mean.square().sum(1).double()
        self._sum = self._sum + mean
        self._images += 1

    def own(self, draws: int) -> Tensor:
        n = self._images
        assert isinstance(self._sum, Tensor)
        between = (self._power - n * (self._sum / n).square().sum(1).double()) / (n - 1)
        return between - self._within / (n * (draws - 1)) / draws


class _Facts:
    """Moments of all channels, and the fourth moment of the chosen ones."""

    def __init__(self, channels: int, chosen: int) -> None:
        self._mean = torch.zeros(channels, dtype=torch.float64)
        self._square = torch.zeros(channels, dtype=torch.float64)
        self._powers = torch.zeros(4, chosen, dtype=torch.float64)
        self._shift: Tensor | None = None
        self._batches = 0

    def add(self, values: Tensor, some: Tensor) -> None:
        variance, mean = torch.var_mean(values.float(), dim=(0, 2, 3), correction=0)
        variance, mean = variance.double().cpu(), mean.double().cpu()
        self._mean += mean
        self._square += variance + mean.square()
        if self._shift is None:
            self._shift = some.mean((0, 2, 3))
        centred = some - self._shift[None, :, None, None]
        squared = centred * centred
        for k, power in enumerate((centred, squared, squared * centred, squared * squared)):
            self._powers[k] += power.mean((0, 2, 3)).double()
        self._batches += 1

    def kurtosis(self) -> float:
        """Mean excess kurtosis of the chosen channels that are alive."""
        m1, m2, m3, m4 = self._powers / self._batches
        central = m2 - m1**2
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        alive = central > 1e-12 * central.max().clamp(min=1e-30)
        return float((fourth[alive] / central[alive] ** 2 - 3).mean()) if alive.any() else 0.0

    def channels(self) -> tuple[float, int, float]:
        """Dead and massive channels among all, and the largest over the median root mean square."""
        mean, square = self._mean / self._batches, self._square / self._batches
        variance = (square - mean.square()).clamp(min=0)
        rms = square.sqrt()
        middle = rms.median().clamp(min=1e-30)
        dead = (variance <= _DEAD * variance.median().clamp(min=1e-30)).double().mean()
        return float(dead), int((rms > _MASSIVE * middle).sum()), float(rms.max() / middle)


def concentration(values: Float[Tensor, "c h w"]) -> float:
    """How near the cells most like a cell lie: 0 anywhere, towards 1 next to it (see the module docstring)."""
    side = max(values.shape[1:])
    if side > _SIMILARITY_SIDE:
        values = F.avg_pool2d(values, -(-side // _SIMILARITY_SIDE))
    _, h, w = values.shape
    cells = values.flatten(1).T
    unit = F.normalize(cells - cells.mean(0), dim=1)
    count = h * w
    queries = torch.linspace(0, count - 1, min(_QUERIES, count)).round().long()
    likeness = unit[queries] @ unit.T
    likeness[torch.arange(len(queries)), queries] = -torch.inf
    y, x = torch.arange(count) // w, torch.arange(count) % w
    distance = torch.hypot((y[queries, None] - y).float(), (x[queries, None] - x).float())
    nearest = likeness.topk(max(1, min(count - 1, round(_NEAREST * count))), dim=1).indices
    ratio = distance.gather(1, nearest).mean(1) / (distance.sum(1) / (count - 1))
    return float(1 - ratio.mean())


def _radial_bins(h: int, w: int) -> Float[Tensor, "k r"]:
    """The ring (whole cycles per shorter side) of each coefficient of ``rfft2``; the constant alone is 0."""
    side = min(h, w)
    y = torch.fft.fftfreq(h, 1 / side)
    x = torch.fft.rfftfreq(w, 1 / side)
    radius = torch.hypot(y[:, None], x[None, :])
    ring = radius.round().long().clamp(min=1)
    ring[0, 0] = 0
    twice = torch.full((h, w // 2 + 1), 2.0)  # a coefficient stands for its mirror image too
    twice[:, 0] = 1
    if w % 2 == 0:
        twice[:, -1] = 1
    bins = torch.zeros(h * (w // 2 + 1), int(ring.max()) + 1)
    bins[torch.arange(len(bins)), ring.flatten()] = twice.flatten()
    return bins


def _square(values: Tensor) -> Tensor:
    return values.real.square() + values.imag.square()


def _share(part: Tensor, rest: Tensor) -> float:
    one, other = part.sum().clamp(min=0), rest.sum().clamp(min=0)
    return float(one / (one + other)) if one + other > 0 else 0.0
