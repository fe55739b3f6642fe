"""Stored features as a data set of PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffeat.features import FeatureMap
from diffeat.storage.index import Index
from diffeat.storage.shard import Window
from diffeat.storage.url import Place

Maps = Tensor | np.ndarray
#: A picture by number, name or digest, or with a window of its own.
Item = int | str | tuple[int | str, Window]


class Stored(Protocol):
    """What is used of a store that is read."""

    @property
    def path(self) -> Place: ...
    @property
    def recipe_hash(self) -> str: ...
    def index(self) -> Index: ...
    def activations(self) -> list[str]: ...
    def names(self) -> list[str]: ...
    def named(self, key: str) -> str: ...
    def __len__(self) -> int: ...
    def load(
        self, key: str | int, activations: Sequence[str] | None = None, window: Window | None = None
    ) -> FeatureMap: ...


class StoredFeatures(Dataset[Maps | dict[str, Maps]]):
    """The maps of a store by the picture's number or name; made by :meth:`FeatureStore.dataset`.

    An item is the map ``(C, h, w)`` of the one activation that was asked for by name, else maps by activation. A window
    of its own goes with an item as ``dataset[name, (top, left, height, width)]``, e.g. from a sampler. It can be
    pickled, and read by any number of workers, each of which opens the store for itself.

    Attributes:
        names: Of the pictures, by number.
    """

    def __init__(
        self,
        store: Stored,
        activations: str | Sequence[str] | None = None,
        window: Window | None = None,
        dtype: torch.dtype | None = None,
        *,
        numpy: bool = False,
    ) -> None:
        self._store = store
        self._one = isinstance(activations, str)
        self._activations = [activations] if isinstance(activations, str) else activations
        self._window, self._dtype, self._numpy = window, dtype, numpy
        self._store.index()  # what is damaged is said before the workers begin

    @property
    def names(self) -> list[str]:
        return self._store.names()

    def __len__(self) -> int:
        return len(self._store)

    def __getitem__(self, item: Item) -> Maps | dict[str, Maps]:
        key, window = item if isinstance(item, tuple) else (item, self._window)
        maps = self._store.load(key, self._activations, window).activations
        converted = {name: self._converted(values) for name, values in maps.items()}
        return next(iter(converted.values())) if self._one else converted

    def _converted(self, values: Tensor) -> Maps:
        values = values if self._dtype is None else values.to(self._dtype)
        if not self._numpy:
            return values
        return as_numpy(values)


def as_numpy(values: Tensor) -> np.ndarray:
    """An array of a map; bfloat16, which numpy does not know, as float32, exactly."""
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
