"""The few-label probes and the classification probe as heads: saved, loaded and asked like every other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import InvalidValueError
from diffeat.features import FeatureMap, Source
from diffeat.tasks.classification.evaluate import pooled_features
from diffeat.tasks.predictors.head import EnlargedScores, Head, Opinion, PictureHead, PixelHead
from diffeat.tasks.segmentation.ensemble import EnsembleMaps, PixelEnsemble
from diffeat.tasks.segmentation.pixels import PictureMaps


class _Linear(Head):
    """A linear map of channels.

    Args:
        weight: (classes, channels of all maps side by side).
        bias: (classes,); minus infinity for a class that no training picture shows.
        activations: Names of the maps, in the order of the channels.
        sharpness: What scores are multiplied by, so that their softmax is as often right as it says.
    """

    def __init__(
        self,
        weight: Float[Tensor, "k c"],
        bias: Float[Tensor, " k"],
        activations: Sequence[str] = (),
        sharpness: float = 1.0,
    ) -> None:
        self.weight, self.bias = weight, bias
        self.activations, self.sharpness = tuple(activations), float(sharpness)

    @classmethod
    def of(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor], source: Source[FeatureMap]) -> Self:
        """As :meth:`Head.of`."""
        return cls(state["weight"], state["bias"], **settings)

    @property
    def settings(self) -> dict[str, Any]:
        """See the arguments."""
        return {"activations": list(self.activations), "sharpness": self.sharpness}

    def state(self) -> dict[str, Tensor]:
        """``weight`` and ``bias``."""
        return {"weight": self.weight, "bias": self.bias}

    def to(self, device: torch.device) -> Self:
        """Move it; returns itself."""
        self.weight, self.bias = self.weight.to(device), self.bias.to(device)
        return self


class LinearPixels(_Linear, PixelHead):
    """A linear classifier of pixels, as :class:`~diffeat.tasks.segmentation.LinearProbe` solves it."""

    kind = "linear"

    def over(self, features: FeatureMap) -> EnlargedScores:
        """Scores on the native grids, enlarged and added up."""
        maps = chosen(features, self.activations, self.weight.shape[1], self.weight.device)
        return EnlargedScores(maps.project(self.sharpness * self.weight), self.sharpness * self.bias)


class LinearPictures(_Linear, PictureHead):
    """A linear classifier of pictures by the means of their maps."""

    kind = "classification"

    def judge(self, features: FeatureMap) -> Opinion:
        """Scores (k,) of the picture."""
        pooled = pooled_features(features, names_in(features, self.activations)).to(self.weight)
        check_channels(len(pooled), self.weight.shape[1])
        return Opinion(self.sharpness * (self.weight @ pooled + self.bias))


class VotingPixels(PixelHead):
    """Pixel networks that vote (:class:`~diffeat.tasks.segmentation.PixelEnsemble`): the score of a class is its share
    of the votes, its probability the mean of the members', the uncertainty their Jensen-Shannon divergence."""

    kind = "ensemble"

    def __init__(self, ensemble: PixelEnsemble, activations: Sequence[str] = ()) -> None:
        self.ensemble, self.activations = ensemble, tuple(activations)

    @classmethod
    def of(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor], source: Source[FeatureMap]) -> Self:
        """As :meth:`Head.of`."""
        members: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            number, _, key = name.partition(".")
            members.setdefault(int(number), {})[key] = value
        return cls(PixelEnsemble.of(members[k] for k in sorted(members)), settings["activations"])

    @property
    def settings(self) -> dict[str, Any]:
        """Names of the maps, in the order of the channels."""
        return {"activations": list(self.activations)}

    def state(self) -> dict[str, Tensor]:
        """Of every member, by its number."""
        members = enumerate(self.ensemble.members)
        return {f"{k}.{name}": value for k, member in members for name, value in member.state_dict().items()}

    def to(self, device: torch.device) -> Self:
        """Move it; returns itself."""
        self.ensemble.to(device)
        return self

    def over(self, features: FeatureMap) -> Votes:
        """Votes of the picture's pixels; hidden values lie on the native grids."""
        maps = chosen(features, self.activations, self.ensemble.channels, self.ensemble.device)
        return Votes(self.ensemble.over(maps))


@dataclass(frozen=True)
class Votes:
    """The votes of an ensemble over a picture."""

    maps: EnsembleMaps

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.maps.size

    def rows(self, start: int, stop: int) -> Opinion:
        """Of rows ``start`` to ``stop``."""
        return Opinion(*self.maps.votes(start, stop))


def names_in(features: FeatureMap, activations: Sequence[str]) -> list[str]:
    """Names of the maps that a head reads: those it was trained on.

    Raises:
        InvalidValueError: The features lack one.
    """
    names = list(features.activations)
    if not activations or set(activations) <= set(names):
        return list(activations) or names
    raise InvalidValueError(
        f"The head reads the maps {', '.join(activations[:4])}, but {features.image} has {', '.join(names[:4])}: it "
        "belongs to another recipe."
    )


def check_channels(here: int, trained: int) -> None:
    """Refuse features of another width.

    Raises:
        InvalidValueError: They are.
    """
    if here != trained:
        raise InvalidValueError(
            f"The head was trained on {trained} channels, these features have {here}: it belongs to another recipe."
        )


def chosen(features: FeatureMap, activations: Sequence[str], channels: int, device: torch.device) -> PictureMaps:
    """The maps that a head reads, on its device; raises as :func:`names_in` and :func:`check_channels`."""
    names = names_in(features, activations)
    maps = PictureMaps.over([features[name] for name in names], features.frame, device=device)
    check_channels(maps.channels, channels)
    return maps
