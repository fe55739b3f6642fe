"""Pictures of an evaluation, with what matching needs of each."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from diffeat.evaluation.features import Kept, Loads
from diffeat.features import FeatureMap
from diffeat.tasks.correspondence.matching import Matching, Target, pick


class PictureFeatures:
    """Features of pictures by path, and the last few prepared to be searched.

    Args:
        features: Holds them.
        matching: How targets are prepared.
        activation: Which map is matched, where there are several.
        keep: Targets kept in memory.
    """

    def __init__(self, features: Loads, matching: Matching, activation: str | None = None, keep: int = 24) -> None:
        self.matching = matching
        self._loads = features
        self._activation = activation
        self._targets: Kept[Path, Target] = Kept(keep)

    def features(self, path: Path) -> FeatureMap:
        """Features of a picture."""
        return self._loads.load(path.as_posix(), None if self._activation is None else [self._activation])

    def target(self, path: Path) -> Target:
        """A picture prepared to be searched."""
        make = lambda: Target(self.features(path), self.matching, self._activation)  # noqa: E731
        return self._targets.get_or_make(path, make)

    def map_of(self, features: FeatureMap) -> Tensor:
        """The map that is matched."""
        return pick(features, self._activation)
