r"""GATE's feature amalgamation: several views of one picture become one map, with weights that depend on the views.

Meng et al., "Suppress Content Shift", NeurIPS 2024, App. A.4. Views :math:`r_1 … r_b` of c channels, n assigners
:math:`f^j`:

.. math:: w^j_i = \mathrm{softmax}_i\, f^j(r_i), \qquad r = \mathrm{concat}_j \sum_i w^j_i r_i \tag{3, 4}

.. math:: L_\mathrm{fin} = L - \gamma_1 \sum_j \lVert w^j \rVert_2
          - \frac{\gamma_2}{2} \sum_j \sum_{k \ne j} \lVert w^j - w^k \rVert_2 \tag{5}

The second term favours few views (weights sum to 1, so a larger length is a more concentrated choice), the third
favours assigners that disagree. An assigner is a 3×3 convolution to 128 channels, ReLU, batch norm, dropout, mean
over the picture and a linear layer. In the paper it gives one number per view (``scalar``); the released code gives
one per view and channel (``channel``), averages lengths over channels, and differs further:

* the diversity term is 0 whatever γ₂;
* the output convolutions of several assigners are one module;
* in training, batch norm sees one view at a time: every view then has the same mean behind it, so that an assigner can
  hardly tell views apart (weights stay near uniform) until it is evaluated. Here all views of a batch are normalised
  together; in evaluation both are the same;
* γ₁ is not a constant: the term is :math:`s\, L\, (-\lVert w \rVert)` with both factors scaled out by their own values
  (a relative push of size s), and s does a random walk from 0 in steps of 1e-5 (:class:`SparsityWalk`).

``released=True`` follows the code in all of these. Attention features are not weighed but appended after the mixture.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeat.errors import InvalidValueError

Kind = Literal["concat", "mean", "scalar", "channel"]
KINDS = ("concat", "mean", "scalar", "channel")
_HIDDEN = 128


@dataclass(frozen=True)
class AmalgamationConfig:
    """What an amalgamation is made for.

    Attributes:
        channels: Of each view.
        views: How many.
        kind: ``concat`` and ``mean`` have no assigner; ``scalar`` and ``channel`` as in the module's docstring.
        assigners: How many mixtures are put side by side (scalar, channel).
        attention: Channels that are appended to each mixture as they are.
        convolve: A 3×3 convolution over each mixture with its attention channels.
        dropout: Inside the assigners, in training.
        released: Follow the released code where it differs from the paper.
    """

    channels: int
    views: int
    kind: Kind = "channel"
    assigners: int = 1
    attention: int = 0
    convolve: bool = False
    dropout: float = 0.5
    released: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidValueError(f"An amalgamation is one of {', '.join(KINDS)}, got {self.kind!r}.")
        if min(self.channels, self.views, self.assigners) < 1:
            raise InvalidValueError("An amalgamation needs at least one channel, one view and one assigner.")
        if self.kind in ("concat", "mean") and self.assigners != 1:
            raise InvalidValueError(f"Kind {self.kind!r} has no assigners; several belong to 'scalar' and 'channel'.")

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        mixed = self.channels * (self.views if self.kind == "concat" else 1)
        return self.assigners * (mixed + self.attention)


class Amalgamation(nn.Module):
    """Mixes views. The state dictionary has the names of the released code's networks."""

    def __init__(self, config: AmalgamationConfig) -> None:
        super().__init__()
        self.config = config
        learned = config.kind in ("scalar", "channel")
        if learned:
            width = config.channels if config.kind == "channel" else 1
            self.weight_assigner = nn.ModuleList(_assigner(config, width) for _ in range(config.assigners))
        if config.convolve:
            channels = config.out_channels // config.assigners
            convolutions = [nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(config.assigners)]
            self.out = nn.ModuleList(convolutions[:1] * config.assigners if config.released else convolutions)

    def weights(self, views: Float[Tensor, "b v c h w"]) -> Float[Tensor, "n b v k"]:
        """Mixing weights: positive, summing to 1 over views; k is 1 or the channels."""
        config = self.config
        b, v, c = views.shape[:3]
        if v != config.views or c != config.channels:
            raise InvalidValueError(
                f"{v} views of {c} channels were given to an amalgamation of {config.views} views of {config.channels}."
            )
        if config.kind not in ("scalar", "channel"):
            return views.new_full((1, b, v, 1), 1.0 if config.kind == "concat" else 1 / v)
        if config.released:
            logits = [torch.stack([assign(views[:, i]) for i in range(v)], dim=1) for assign in self.weight_assigner]
        else:
            logits = [assign(views.flatten(0, 1)).unflatten(0, (b, v)) for assign in self.weight_assigner]
        return torch.stack(logits).softmax(dim=2)

    def forward(
        self, views: Float[Tensor, "b v c h w"], attention: Float[Tensor, "b a h w"] | None = None
    ) -> tuple[Float[Tensor, "b o h w"], Float[Tensor, "n b v k"]]:
        """The amalgamated map and the weights it was mixed with.

        Raises:
            InvalidValueError: If views or attention are not what the amalgamation was made for.
        """
        config = self.config
        if (0 if attention is None else attention.shape[1]) != config.attention:
            raise InvalidValueError(f"This amalgamation takes {config.attention} channels of attention features.")
        weights = self.weights(views)
        return self.mix(views, weights, attention), weights

    def mix(
        self,
        views: Float[Tensor, "b v c h w"],
        weights: Float[Tensor, "n b v k"],
        attention: Float[Tensor, "b a h w"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """The amalgamated map with given weights."""
        config = self.config
        if config.kind == "concat":
            mixtures = [views.flatten(1, 2)]
        else:
            mixtures = [(views * w[..., None, None]).sum(1) for w in weights]
        if attention is not None:
            mixtures = [torch.cat([m, attention], dim=1) for m in mixtures]
        if config.convolve:
            mixtures = [conv(m) for conv, m in zip(self.out, mixtures, strict=True)]
        return torch.cat(mixtures, dim=1)

    def to_file(self) -> dict[str, Any]:
        """Configuration and weights."""
        return {"config": asdict(self.config), "state": self.state_dict()}


def _assigner(config: AmalgamationConfig, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(config.channels, _HIDDEN, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(_HIDDEN),
        nn.Dropout(config.dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(_HIDDEN, width),
    )


def concentration(weights: Float[Tensor, "n b v k"]) -> Float[Tensor, " n"]:
    """Mean length over views of each assigner's weights: 1 takes one view, 1/√b all alike."""
    return weights.norm(dim=2).mean(dim=(1, 2))


def disagreement(weights: Float[Tensor, "n b v k"]) -> Float[Tensor, ""]:
    """Sum over ordered pairs of assigners of the mean distance between their weights."""
    n = len(weights)
    pairs = [(weights[j] - weights[k]).norm(dim=1).mean() for j in range(n) for k in range(n) if k != j]
    return torch.stack(pairs).sum() if pairs else weights.new_zeros(())


def entropy(weights: Float[Tensor, "n b v k"]) -> Float[Tensor, " n"]:
    """Mean entropy of each assigner's weights over the most possible: 1 is uniform, 0 takes one view."""
    views = weights.shape[2]
    if views == 1:
        return weights.new_zeros(len(weights))
    spread = -(weights * weights.clamp(min=1e-30).log()).sum(2).mean(dim=(1, 2))
    return spread / torch.tensor(float(views)).log()


def regularised(
    loss: Tensor, weights: Float[Tensor, "n b v k"], sparsity: float, diversity: float, released: bool = False
) -> Tensor:
    """The loss with the terms of Eq. 5.

    Args:
        sparsity: γ₁; of the released code the current s.
        diversity: γ₂; without effect in the released code.
    """
    length = concentration(weights).sum()
    if released:
        return loss - sparsity * loss.detach() * length / length.detach()
    return loss - sparsity * length - diversity / 2 * disagreement(weights)


class SparsityWalk:
    """The released code's way to tune γ₁: every fifth step the coefficient of the last while is kept if the loss fell
    by more than the (decaying) best fall, or by chance; then it moves by −1e-5, 0 or 1e-5, never below 0.

    Attributes:
        value: The coefficient now.
    """

    def __init__(self, seed: int = 0, every: int = 5, step: float = 1e-5, decay: float = 0.9) -> None:
        self.value = 0.0
        self._accepted = 0.0
        self._best = 0.0
        self._losses: list[float] = []
        self._before: float | None = None
        self._every, self._step, self._decay = every, step, decay
        self._random = random.Random(seed)

    def update(self, loss: float) -> float:
        """Take a step's loss; returns the coefficient for the next step."""
        self._losses.append(loss)
        if len(self._losses) < self._every:
            return self.value
        mean = sum(self._losses) / len(self._losses)
        fall = 0.0 if self._before is None else self._before - mean
        if fall > self._best or self._random.random() < 1 / 20:
            self._accepted, self._best = self.value, max(fall, self._best)
        self._best *= self._decay
        self._before, self._losses = mean, []
        self.value = max(0.0, self._accepted + self._random.choice((-self._step, 0.0, self._step)))
        return self.value
