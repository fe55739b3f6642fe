r"""Massive activations: a few fixed channels that are huge in every token, whatever the picture.

Channel c is massive (after DiTF, arXiv:2505.18584, and Sun et al., arXiv:2402.17762) when

* mean :math:`|x_c| \ge r` times the median channel's (``ratio``; 30 for large trained models, 5 for models of a few
  million parameters, whose massive activations are milder: max/median grows with size, arXiv:2508.03616);
* :math:`|\mu_c| / \sigma_c \ge 2` (``constant_sign``): one sign and little spread over tokens, so little local content;
* the ratio is met within 90 % of the images (``presence``).

High-norm tokens (Darcet et al., arXiv:2309.16588) are another thing: few *tokens* with a large norm. They raise a
channel's mean but also its spread, so the second condition keeps them out; and as a massive channel alone makes every
token's norm large, :func:`high_norm_tokens` looks at norms without the massive channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.refinement.stats import ChannelStatistics


@dataclass(frozen=True)
class Rule:
    """The thresholds; see the module docstring."""

    ratio: float = 30.0
    constant_sign: float = 2.0
    presence: float = 0.9

    def __post_init__(self) -> None:
        if self.ratio <= 1 or self.constant_sign < 0 or not 0 <= self.presence <= 1:
            raise InvalidValueError(
                f"A rule takes ratio > 1, constant_sign >= 0 and presence in 0…1, got {self.ratio:g}, "
                f"{self.constant_sign:g}, {self.presence:g}."
            )


@dataclass(frozen=True)
class MassiveChannel:
    """What the rule looks at, of a channel that it calls massive or not.

    Attributes:
        channel: Its number.
        ratio: Mean |x| over that of the median channel.
        mean: Mean, with its sign.
        std: Standard deviation over tokens and images.
        presence: Share of the images in which the ratio is met.
    """

    channel: int
    ratio: float
    mean: float
    std: float
    presence: float

    @property
    def sign(self) -> float:
        """|mean| / std."""
        return abs(self.mean) / max(self.std, 1e-30)

    def failed(self, rule: Rule) -> list[str]:
        """The tests of a rule that it fails, with both numbers; empty for a massive channel."""
        tests = [
            (self.ratio < rule.ratio, f"ratio {self.ratio:.1f} < {rule.ratio:g}"),
            (self.sign < rule.constant_sign, f"|mean| / std {self.sign:.2f} < {rule.constant_sign:g}"),
            (self.presence < rule.presence, f"in {self.presence:.0%} < {rule.presence:.0%} of the pictures"),
        ]
        return [words for fails, words in tests if fails]


@dataclass(frozen=True)
class Detection:
    """What :func:`detect_massive` found.

    Attributes:
        found: Massive channels, by number.
        rule: By which thresholds.
        images: How many images were seen.
        energy_share: Share of all energy in the massive channels.
        peak_ratio: Largest |x| over median |x|.
        gini: Inequality of the channels.
    """

    found: tuple[MassiveChannel, ...]
    rule: Rule
    images: int
    energy_share: float
    peak_ratio: float
    gini: float

    @property
    def channels(self) -> list[int]:
        """Numbers of the massive channels, ascending."""
        return [m.channel for m in self.found]


def detect_massive(statistics: ChannelStatistics, rule: Rule = Rule()) -> Detection:
    """The massive channels of an activation.

    Args:
        statistics: Of that activation over several images.
        rule: Thresholds. ``presence=0`` drops the test over images, which one image alone cannot answer.

    Raises:
        InvalidValueError: Statistics of one image only, with a rule that asks about several.

    Example:
        >>> statistics = ChannelStatistics(64)
        >>> for seed in (0, 1):
        ...     tokens = torch.randn(256, 64, generator=torch.Generator().manual_seed(seed))
        ...     tokens[:, 7] = 200  # one channel, in every token and picture
        ...     statistics.update(tokens)
        >>> detect_massive(statistics).channels
        [7]
    """
    if statistics.images < 2 and rule.presence > 0:
        raise InvalidValueError(
            f"The statistics are of {statistics.images} image(s): whether a channel is massive in every picture, and "
            "with the same sign, cannot be known from them. Add pictures (8 are plenty), or pass a rule with "
            "presence=0 and take the outcome as a property of that picture alone."
        )
    ratio, presence = _over_median(statistics.mean_abs), _presence(statistics, rule)
    massive = (
        (ratio >= rule.ratio)
        & (statistics.mean.abs() >= rule.constant_sign * statistics.std)
        & (presence >= rule.presence)
    )
    found = tuple(measured_channel(statistics, c, rule) for c in massive.nonzero().flatten().tolist())
    share = statistics.energy_share([m.channel for m in found])
    return Detection(found, rule, statistics.images, share, statistics.peak_ratio, statistics.gini)


def measured_channel(statistics: ChannelStatistics, channel: int, rule: Rule = Rule()) -> MassiveChannel:
    """What the rule looks at, of a channel that it may call massive or not."""
    return MassiveChannel(
        channel,
        float(_over_median(statistics.mean_abs)[channel]),
        float(statistics.mean[channel]),
        float(statistics.std[channel]),
        float(_presence(statistics, rule)[channel]),
    )


def high_norm_tokens(
    tokens: Float[Tensor, "n c"], massive: Sequence[int] = (), factor: float = 5.0
) -> Bool[Tensor, " n"]:
    """Which tokens of an image have a norm of ``factor`` times the median token's or more, massive channels left out.

    Args:
        tokens: Of one image.
        massive: Channels to leave out, as :func:`detect_massive` found them.
        factor: How far out.
    """
    kept = torch.ones(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    kept[list(massive)] = False
    norms = tokens[:, kept].float().norm(dim=1)
    return norms >= factor * norms.median().clamp(min=1e-30)


def _presence(statistics: ChannelStatistics, rule: Rule) -> Tensor:
    return (_over_median(statistics.by_image) >= rule.ratio).float().mean(0)


def _over_median(mean_abs: Tensor) -> Tensor:
    """Each channel over the median channel (the lower of two), which is kept from being zero."""
    median = mean_abs.median(dim=-1, keepdim=True).values
    return mean_abs / median.clamp(min=1e-30)
