"""The raw maps that an aggregation network is trained on, by picture: from a store, or extracted anew when asked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from diffeat.evaluation.features import Loads
from diffeat.extraction import Extractor
from diffeat.extraction.reduce import Place
from diffeat.features import FeatureMap
from diffeat.geometry import Frame


@dataclass(frozen=True)
class PictureMaps:
    """Maps of one picture.

    Attributes:
        layers: Per layer ``(steps, c, h, w)``.
        frame: How the picture lies in the model's image.
        grid: ``(h, w)`` of the descriptor, where it is not the largest of the maps'.
    """

    layers: tuple[Tensor, ...]
    frame: Frame
    grid: tuple[int, int] | None = None

    @property
    def bytes(self) -> int:
        """Memory that the maps take."""
        return sum(layer.nbytes for layer in self.layers)


class MapSource(Protocol):
    """Gives the maps of pictures by path."""

    def maps(self, path: Path) -> PictureMaps: ...


def map_names(extractor: Extractor) -> list[list[str]]:
    """Names of the maps that an extractor without fusion gives: per layer, the steps in order."""
    several = len(extractor.steps) > 1
    return [[str(Place(name, s)) if several else name for s in extractor.steps] for name in extractor.names]


def stack(feature: FeatureMap, names: Sequence[Sequence[str]]) -> PictureMaps:
    return PictureMaps(tuple(torch.stack([feature[n] for n in steps]) for steps in names), feature.frame)


class StoredMaps:
    """Maps from a store that an extractor without fusion wrote; the last ``keep`` bytes stay in memory."""

    def __init__(self, store: Loads, names: Sequence[Sequence[str]], keep: int = 2 << 30) -> None:
        self._store, self._names, self._keep = store, names, keep
        self._kept: OrderedDict[Path, PictureMaps] = OrderedDict()
        self._bytes = 0

    def maps(self, path: Path) -> PictureMaps:
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        found = self._kept[path] = stack(self._store.load(path.as_posix()), self._names)
        self._bytes += found.bytes
        while self._bytes > self._keep and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].bytes
        return found


class FreshMaps:
    """Maps extracted whenever they are asked for, for sets too large to store."""

    def __init__(self, extractor: Extractor, texts: Mapping[Path, str | None]) -> None:
        self._extractor, self._texts, self._names = extractor, texts, map_names(extractor)

    def maps(self, path: Path) -> PictureMaps:
        (feature,) = self._extractor.extract([path], [self._texts[path]])
        return stack(feature, self._names)


class Described:
    """Descriptors of pictures, made of their maps, in the form in which a feature store gives features."""

    def __init__(self, source: MapSource, describe: Callable[[PictureMaps], Tensor]) -> None:
        self._source, self._describe = source, describe

    def load(self, key: str, activations: Sequence[str] | None = None) -> FeatureMap:
        found = self._source.maps(Path(key))
        return FeatureMap({"fused": self._describe(found).cpu()}, found.frame, key)
