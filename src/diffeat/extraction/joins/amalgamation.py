r"""GATE's feature amalgamation: several views of one picture become one map, with weights that depend on the views.

Meng et al., "Suppress Content Shift", NeurIPS 2024, App. A.4. Views :math:`r_1 … r_b` of c channels, n assigners
:math:`f^j`:

.. math:: w^j_i = \mathrm{softmax}_i\, f^j(r_i), \qquad r = \mathrm{concat}_j \sum_i w^j_i r_i \tag{3, 4}

.. math:: L_\mathrm{fin} = L - \gamma_1 \sum_j \lVert w^j \rVert_2
          - \frac{\gamma_2}{2} \sum_j \sum_{k \ne j} \lVert w^j - w^k \rVert_2 \tag{5}

The second term favours few views (weights sum to 1, so a larger length is a more concentrated choice), the third
favours assigners that disagree. An assigner is a 3×3 convolution to 128 channels, ReLU, batch norm, dropout, mean
over the picture and a linear layer; for parts from few labels a network of single pixels (``pixel``: linear to 128,
ReLU, batch norm, dropout, linear), so that every pixel is mixed in its own way; for segmentation each level of the
denoiser has its own assigner, on its own grid (:class:`LevelAmalgamation`). In the paper it gives one number per view
(``scalar``); the released code gives one per view and channel (``channel``), averages lengths over channels, and
differs further:

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

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diffeat.errors import InvalidValueError, ModelError
from diffeat.refinement.maps import concatenate, largest_grid
from diffeat.storage.atomic import StagedFile, disk_errors

Kind = Literal["concat", "mean", "scalar", "channel"]
KINDS = ("concat", "mean", "scalar", "channel")
_HIDDEN = 128
_KEY = "diffeat-amalgamation"


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
        pixel: Weights differ from pixel to pixel.
        ensemble: The assigners are members of an ensemble: mixing takes the mean of their weights.
        released: Follow the released code where it differs from the paper.
    """

    channels: int
    views: int
    kind: Kind = "channel"
    assigners: int = 1
    attention: int = 0
    convolve: bool = False
    dropout: float = 0.5
    pixel: bool = False
    ensemble: bool = False
    released: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidValueError(f"An amalgamation is one of {', '.join(KINDS)}, got {self.kind!r}.")
        if min(self.channels, self.views, self.assigners) < 1:
            raise InvalidValueError("An amalgamation needs at least one channel, one view and one assigner.")
        if self.kind in ("concat", "mean") and self.assigners != 1:
            raise InvalidValueError(f"Kind {self.kind!r} has no assigners; several belong to 'scalar' and 'channel'.")
        if self.ensemble and self.convolve:
            raise InvalidValueError("An ensemble's weights are averaged; it has no convolution for each assigner.")

    @property
    def mixtures(self) -> int:
        """How many are put side by side."""
        return 1 if self.ensemble else self.assigners

    @property
    def out_channels(self) -> int:
        """Channels of the result."""
        mixed = self.channels * (self.views if self.kind == "concat" else 1)
        return self.mixtures * (mixed + self.attention)


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

    def weights(self, views: Float[Tensor, "b v c h w"]) -> Float[Tensor, "n b v k *place"]:
        """Mixing weights: positive, summing to 1 over views; k is 1 or the channels, place h and w of ``pixel``."""
        config = self.config
        b, v, c = views.shape[:3]
        if v != config.views or c != config.channels:
            raise InvalidValueError(
                f"{v} views of {c} channels were given to an amalgamation of {config.views} views of {config.channels}."
            )
        if config.kind not in ("scalar", "channel"):
            return views.new_full((1, b, v, 1), 1.0 if config.kind == "concat" else 1 / v)
        if config.released:
            logits = [torch.stack([self._of(a, views[:, i]) for i in range(v)], dim=1) for a in self.weight_assigner]
        else:
            logits = [self._of(a, views.flatten(0, 1)).unflatten(0, (b, v)) for a in self.weight_assigner]
        weights = torch.stack(logits).softmax(dim=2)
        return weights.mean(0, keepdim=True) if config.ensemble else weights

    def _of(self, assigner: nn.Module, maps: Float[Tensor, "m c h w"]) -> Float[Tensor, "m k *place"]:
        if not self.config.pixel:
            return assigner(maps)
        pixels = maps.movedim(1, -1)
        return assigner(pixels.flatten(0, 2)).unflatten(0, pixels.shape[:-1]).movedim(-1, 1)

    def forward(
        self, views: Float[Tensor, "b v c h w"], attention: Float[Tensor, "b a h w"] | None = None
    ) -> tuple[Float[Tensor, "b o h w"], Float[Tensor, "n b v k *place"]]:
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
        weights: Float[Tensor, "n b v k *place"],
        attention: Float[Tensor, "b a h w"] | None = None,
    ) -> Float[Tensor, "b o h w"]:
        """The amalgamated map with given weights."""
        config = self.config
        if config.kind == "concat":
            mixtures = [views.flatten(1, 2)]
        else:
            mixtures = [(views * (w if config.pixel else w[..., None, None])).sum(1) for w in weights]
        if attention is not None:
            mixtures = [torch.cat([m, attention], dim=1) for m in mixtures]
        if config.convolve:
            mixtures = [conv(m) for conv, m in zip(self.out, mixtures, strict=True)]
        return torch.cat(mixtures, dim=1)


class LevelAmalgamation(nn.Module):
    """An amalgamation for each level of the denoiser, on the level's own grid; mixtures stand side by side on one grid.

    Args:
        configs: Of the levels, without attention features.
        grid: ``[h, w]`` of the result; that of the largest level if not given.
    """

    def __init__(self, configs: Sequence[AmalgamationConfig], grid: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.grid = grid
        self.levels = nn.ModuleList(Amalgamation(config) for config in configs)

    @property
    def out_channels(self) -> int:
        """Channels of the result, without those that are appended."""
        return sum(config.out_channels for config in self.configs)

    @property
    def configs(self) -> list[AmalgamationConfig]:
        """Of the levels."""
        return [cast(Amalgamation, level).config for level in self.levels]

    def forward(
        self, views: Sequence[Float[Tensor, "b v _c _h _w"]], attention: Float[Tensor, "b a h w"] | None = None
    ) -> tuple[Float[Tensor, "b o h w"], list[Float[Tensor, "n b v _k"]]]:
        """The mixtures of all levels (and what is appended) on one grid, and the weights of each level."""
        if len(views) != len(self.levels):
            raise InvalidValueError(f"{len(views)} levels were given to an amalgamation of {len(self.levels)}.")
        mixed, weights = zip(*(level(of) for level, of in zip(self.levels, views, strict=True)), strict=True)
        maps = [*mixed, *([] if attention is None else [attention])]
        grid = self.grid or largest_grid(mixed)
        return torch.stack([concatenate(picture, grid) for picture in zip(*maps, strict=True)]), list(weights)


def _assigner(config: AmalgamationConfig, width: int) -> nn.Sequential:
    if config.pixel:
        return nn.Sequential(
            nn.Linear(config.channels, _HIDDEN),
            nn.ReLU(),
            nn.BatchNorm1d(_HIDDEN),
            nn.Dropout(config.dropout),
            nn.Linear(_HIDDEN, width),
        )
    return nn.Sequential(
        nn.Conv2d(config.channels, _HIDDEN, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(_HIDDEN),
        nn.Dropout(config.dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(_HIDDEN, width),
    )


def concentration(weights: Float[Tensor, "n b v k *place"]) -> Float[Tensor, " n"]:
    """Mean length over views of each assigner's weights: 1 takes one view, 1/√b all alike."""
    return weights.norm(dim=2).flatten(1).mean(1)


def disagreement(weights: Float[Tensor, "n b v k *place"]) -> Float[Tensor, ""]:
    """Sum over ordered pairs of assigners of the mean distance between their weights."""
    n = len(weights)
    pairs = [(weights[j] - weights[k]).norm(dim=1).mean() for j in range(n) for k in range(n) if k != j]
    return torch.stack(pairs).sum() if pairs else weights.new_zeros(())


def entropy(weights: Float[Tensor, "n b v k *place"]) -> Float[Tensor, " n"]:
    """Mean entropy of each assigner's weights over the most possible: 1 is uniform, 0 takes one view."""
    views = weights.shape[2]
    if views == 1:
        return weights.new_zeros(len(weights))
    spread = -(weights * weights.clamp(min=1e-30).log()).sum(2).flatten(1).mean(1)
    return spread / torch.tensor(float(views)).log()


def regularised(
    loss: Tensor, weights: Float[Tensor, "n b v k *place"], sparsity: float, diversity: float, released: bool = False
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
    """The released code's way to tune γ₁: at every fifth step the coefficient is kept if the loss fell since the fifth
    step before by more than the best fall, or by chance (one in twenty); the best fall is then this one, and fades by a
    tenth each time. The coefficient goes on from the kept one by −1e-5, 0 or 1e-5, never below 0.

    Attributes:
        value: The coefficient now.
    """

    def __init__(self, seed: int = 0) -> None:
        self.value = self._kept = self._best = 0.0
        self._before: float | None = None
        self._steps = 0
        self._random = random.Random(seed)

    def update(self, loss: float) -> float:
        """Take a step's loss; returns the coefficient for the next step."""
        self._steps += 1
        if self._steps % 5 == 0:
            fall = 0.0 if self._before is None else self._before - loss
            self._before = loss
            if self._random.choice([True] + [False] * 19) or fall > self._best:
                self._kept, self._best = self.value, fall
            self._best *= 0.9
            self.value = max(0.0, self._kept + self._random.choice((-1e-5, 0.0, 1e-5)))
        return self.value


def save_amalgamation(network: Amalgamation | LevelAmalgamation, file: Path) -> None:
    """Write one safetensors file with the configuration in its metadata, complete or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    from safetensors.torch import save

    # modules that assigners share are stored once for each, as independent copies
    state = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    levels = isinstance(network, LevelAmalgamation)
    config = {"levels": [*map(asdict, network.configs)], "grid": network.grid} if levels else asdict(network.config)
    data = save(state, metadata={_KEY: json.dumps(config)})
    with disk_errors(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        StagedFile(file, data).commit()


def load_amalgamation(file: Path) -> Amalgamation | LevelAmalgamation:
    """Read what :func:`save_amalgamation` wrote, in evaluation mode.

    Raises:
        ModelError: If it is missing or no amalgamation.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(str(file), "pt") as handle:
            config = (handle.metadata() or {}).get(_KEY)
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The amalgamation {str(file)!r} cannot be read: {error}") from None
    if config is None:
        raise ModelError(f"{file} holds no amalgamation of diffeat.")
    facts = json.loads(config)
    with torch.random.fork_rng(devices=[]):
        if "levels" in facts:
            grid = facts["grid"] and (facts["grid"][0], facts["grid"][1])
            network = LevelAmalgamation([AmalgamationConfig(**level) for level in facts["levels"]], grid)
        else:
            network = Amalgamation(AmalgamationConfig(**facts))
    network.load_state_dict(state)
    return network.eval()
