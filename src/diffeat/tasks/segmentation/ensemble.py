"""An ensemble of small networks on single pixels (Baranchuk et al., ICLR 2022; Zhang et al., DatasetGAN, CVPR 2021).

Each member is channels → 128 → ReLU → batch norm → 32 → ReLU → batch norm → classes (256 and 128 from 30 classes on),
started from N(0, 0.02) and trained with Adam on cross-entropy over shuffled pixels in whole batches, for 100 epochs or
until, after the first four, 50 batches in a row were no better than the best of those since. Members vote, and the most
frequent label wins, the smallest of equals; where they are unsure is the Jensen-Shannon divergence of their
predictions, in nats. A picture's uncertainty is the mean over its most uncertain tenth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from diffeat.errors import InvalidValueError
from diffeat.tasks.segmentation.members import EnsembleSettings, pixel_classifier, train_together
from diffeat.tasks.segmentation.pixels import PictureMaps, TrainingPixels

_ROWS_VALUES = 1 << 22


@dataclass(frozen=True)
class Labelling:
    """Predicted labels of a picture.

    Attributes:
        labels: (H, W) int64.
        uncertainty: (H, W) Jensen-Shannon divergence in nats, where there are several opinions.
    """

    labels: Int[Tensor, "h w"]
    uncertainty: Float[Tensor, "h w"] | None = None

    @property
    def unsure(self) -> float | None:
        """Mean over the most uncertain tenth of the pixels, rounded down (all of less than ten)."""
        if self.uncertainty is None:
            return None
        values = self.uncertainty.flatten()
        return float(values.topk(len(values) // 10 or len(values)).values.mean())


class PixelEnsemble:
    """Members that are trained together and asked together."""

    def __init__(self, classes: int, settings: EnsembleSettings | None = None) -> None:
        self.classes = classes
        self.settings = settings or EnsembleSettings()
        self.members: list[nn.Sequential] = []

    @classmethod
    def of(cls, states: Iterable[Mapping[str, Tensor]]) -> PixelEnsemble:
        """Members that are trained, from their state dicts.

        Args:
            states: With the keys of the published files, ``module.layers.0.weight`` …, or without what stands before
                the number.

        Raises:
            InvalidValueError: None, or no such network.
        """
        members = []
        for state in states:
            own = {".".join(key.split(".")[-2:]): value for key, value in state.items()}
            try:
                member = pixel_classifier(own["0.weight"].shape[1], len(own["6.bias"]), torch.Generator())
                member.load_state_dict(own)
            except (KeyError, IndexError, RuntimeError) as error:
                raise InvalidValueError(f"These weights are of no pixel classifier: {error}") from None
            members.append(member.eval())
        classes = {member[6].out_features for member in members}
        if len(classes) != 1:
            raise InvalidValueError(f"An ensemble is of members with as many classes, got {sorted(classes) or 'none'}.")
        ensemble = cls(classes.pop(), EnsembleSettings(members=len(members)))
        ensemble.members = members
        return ensemble

    def fit(self, pixels: TrainingPixels, device: torch.device | str = "cpu") -> PixelEnsemble:
        """Train all members, in one batched computation; returns itself.

        Args:
            device: To train on; the maps of all pictures must fit there.
        """
        seeds = (self.settings.seed * 1000 + k for k in range(self.settings.members))
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        members = [pixel_classifier(pixels.channels, self.classes, generator) for generator in generators]
        self.members = train_together(members, pixels.to(torch.device(device)), self.settings, generators)
        return self

    @property
    def channels(self) -> int:
        """Of a pixel's features."""
        return cast(nn.Linear, self.members[0][0]).in_features

    @property
    def device(self) -> torch.device:
        """Where the members are."""
        return cast(nn.Linear, self.members[0][0]).weight.device

    def to(self, device: torch.device) -> PixelEnsemble:
        """Move the members; returns itself."""
        for member in self.members:
            member.to(device)
        return self

    def over(self, picture: PictureMaps) -> EnsembleMaps:
        """The hidden layers over a picture, on the native grids."""
        if not self.members:
            raise InvalidValueError("The ensemble is not trained: call fit first.")
        return EnsembleMaps(
            self.members, [picture.project(cast(nn.Linear, m[0]).weight.detach()) for m in self.members]
        )

    @torch.no_grad()
    def predict(self, picture: PictureMaps) -> Labelling:
        """Labels at the picture's own resolution; holds a few rows of the hidden layer at a time."""
        maps = self.over(picture)
        height, width = maps.size
        labels = torch.empty(height, width, dtype=torch.long)
        uncertainty = torch.empty(height, width)
        step = max(1, _ROWS_VALUES // (width * cast(nn.Linear, self.members[0][0]).out_features))
        for start in range(0, height, step):
            stop = min(height, start + step)
            labels[start:stop], uncertainty[start:stop] = vote(maps.opinions(start, stop))
        return Labelling(labels, uncertainty)


@dataclass(frozen=True)
class EnsembleMaps:
    """The first layers of members over a picture, without their bias."""

    members: Sequence[nn.Sequential]
    hidden: Sequence[PictureMaps]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.hidden[0].size

    @torch.no_grad()
    def opinions(self, start: int, stop: int) -> Float[Tensor, "members rows width classes"]:
        """The members' logits of some rows."""
        rows = []
        for member, part in zip(self.members, self.hidden, strict=True):
            values = part.rows(start, stop).permute(1, 2, 0)
            first = values + cast(nn.Linear, member[0]).bias
            rows.append(member[1:](first.flatten(0, 1)).unflatten(0, first.shape[:2]))
        return torch.stack(rows)

    def votes(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of some rows: each class's share of the votes (k, rows, width), its mean probability, and the divergence."""
        opinions = self.opinions(start, stop)
        shares = nn.functional.one_hot(opinions.argmax(-1), opinions.shape[-1]).float().mean(0)
        probabilities = opinions.softmax(-1).mean(0)
        return shares.permute(2, 0, 1), probabilities.permute(2, 0, 1), vote(opinions)[1]


def vote(opinions: Float[Tensor, "members *n classes"]) -> tuple[Int[Tensor, "*n"], Float[Tensor, "*n"]]:
    """The members' labels of pixels from their logits, and how they disagree (Jensen-Shannon divergence in nats)."""
    probabilities = opinions.softmax(-1)
    divergence = _entropy(probabilities.mean(0)) - _entropy(probabilities).mean(0)
    return opinions.argmax(-1).mode(0).values, divergence.clamp(min=0)


def _entropy(probabilities: Tensor) -> Tensor:
    return -(probabilities * probabilities.clamp(min=1e-12).log()).sum(-1)
