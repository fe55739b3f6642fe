"""The trained part of a predictor: what it says of features. Kinds are registered in the room's ``registry``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.features import FeatureMap, Source
from diffeat.tasks.segmentation.pixels import PictureMaps


@dataclass(frozen=True)
class Opinion:
    """What is said of pixels, or of a picture.

    Attributes:
        scores: (k, …) of every class, the highest wins; or the k values of a depth or a normal.
        probabilities: (k, …); of classes, the softmax of the scores if not given.
        uncertainty: (…) in nats; of classes, the entropy of the probabilities if not given.
    """

    scores: Float[Tensor, "k ..."]
    probabilities: Float[Tensor, "k ..."] | None = None
    uncertainty: Float[Tensor, "*n"] | None = None


class PixelOpinions(Protocol):
    """What a head says of the pixels of a picture, some rows at a time: never all classes of all pixels."""

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        ...

    def rows(self, start: int, stop: int) -> Opinion:
        """Of rows ``start`` to ``stop``: (k, rows, width)."""
        ...


class Head(ABC):
    """A trained head. A kind of its own is a subclass and a line in the registry.

    Attributes:
        kind: Its name in a run folder.
    """

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def of(cls, settings: Mapping[str, Any], state: Mapping[str, Tensor], source: Source[FeatureMap]) -> Self:
        """The head that :attr:`settings` and :meth:`state` describe, over the features of a source.

        Raises:
            DiffeatError: They do not fit each other, or the source.
        """

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain data that the head is made anew from."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Its weights."""

    @abstractmethod
    def to(self, device: torch.device) -> Self:
        """Move it; returns itself."""


class PixelHead(Head):
    """A head that judges every pixel."""

    @abstractmethod
    def over(self, features: FeatureMap) -> PixelOpinions:
        """What it says of the picture's own pixels."""


class GridHead(PixelHead):
    """A head whose scores lie on a grid of its own and are enlarged."""

    @abstractmethod
    def scores(self, features: FeatureMap) -> Float[Tensor, "k h w"]:
        """Over the model's image, on the head's device."""

    def over(self, features: FeatureMap) -> PixelOpinions:
        """The scores, enlarged bilinearly."""
        return EnlargedScores(PictureMaps.over([self.scores(features)], features.frame, device=None))


class PictureHead(Head):
    """A head that judges a picture as a whole."""

    @abstractmethod
    def judge(self, features: FeatureMap) -> Opinion:
        """What it says of the picture: (k,)."""


@dataclass(frozen=True)
class EnlargedScores:
    """Scores on native grids, enlarged bilinearly.

    Attributes:
        bias: (k,), added to all pixels.
    """

    maps: PictureMaps
    bias: Float[Tensor, " k"] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.maps.size

    def rows(self, start: int, stop: int) -> Opinion:
        """Of rows ``start`` to ``stop``."""
        scores = self.maps.rows(start, stop)
        return Opinion(scores if self.bias is None else scores + self.bias[:, None, None])


def entropy(probabilities: Float[Tensor, "k ..."]) -> Float[Tensor, "*n"]:
    """In nats."""
    return -(probabilities * probabilities.clamp(min=1e-12).log()).sum(0)
