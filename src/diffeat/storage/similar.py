r"""Pictures of a store that are alike: the cosine of their pooled features.

A picture's vector is the mean of a map over its cells, padding left out, brought to unit length; of several maps these
vectors stand side by side, so that the cosine of two pictures is the mean of the cosines of their maps,

.. math:: \cos(a, b) = \frac1m \sum_{i=1}^m \frac{\bar a_i \cdot \bar b_i}{\|\bar a_i\| \|\bar b_i\|}.

Vectors are pooled once, and rest beside the shards (:mod:`diffeat.storage.pooling`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffeat.errors import InvalidValueError, StoreError, UnknownNameError, did_you_mean, shown
from diffeat.features import FeatureMap
from diffeat.progress import Progress, silent
from diffeat.storage.browse import place_of
from diffeat.storage.dataset import Stored
from diffeat.storage.pooling import Part, located, pool, read_parts, unit

if TYPE_CHECKING:
    import pyarrow as pa

#: Pictures up to which all are compared; more are looked up in an index of faiss where it is installed.
EXACT = 100_000
_BLOCK_BYTES = 32 << 20
_SAMPLE, _LISTS, _PROBES, _CANDIDATES = 64, 4096, 32, 10  # of faiss: vectors per list to learn from, …


class Similar(NamedTuple):
    """A picture that is like another: its name, and the cosine of their pooled features."""

    name: str
    cosine: float


class Pooled:
    """Pooled features of a store's pictures, of which the most similar are found; made by
    :meth:`FeatureStore.pooled`.

    Attributes:
        activations: The maps that are compared.
        width: Channels of a vector.
    """

    def __init__(
        self,
        store: Stored,
        activations: str | Sequence[str] | None = None,
        *,
        keep: bool = True,
        progress: Progress = silent,
    ) -> None:
        there = store.activations()
        wanted = there if activations is None else [activations] if isinstance(activations, str) else list(activations)
        for name in wanted:
            if name not in there:
                raise UnknownNameError(f"The store has no activation {name!r}. {did_you_mean(name, there)}")
        if not wanted:
            raise InvalidValueError(f"The store {store.path} holds no pictures to compare.")
        self.activations = tuple(wanted)
        self._store, self._hash, index = store, store.recipe_hash, store.index()
        self._names: pa.DictionaryArray = index.values("image").combine_chunks()
        self._parts: list[list[Part]] = []
        self._where: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        shards: pa.DictionaryArray = index.values("shard").combine_chunks()
        rows = index.values("row").to_numpy()
        for name in wanted:
            parts = list(read_parts(store.path, self._hash, name))
            where = located(parts, shards, rows)
            missing = np.flatnonzero(where[0] < 0)
            if len(missing):
                parts += pool(store, name, missing, shards, rows, keep, progress)
                where = located(parts, shards, rows)
            self._parts.append(parts)
            self._where.append(where)
        widths = [{part.vectors.shape[1] for part in parts} for parts in self._parts]
        if any(len(kinds) > 1 for kinds in widths):
            raise StoreError(f"Maps of one name have different channels in {store.path}; they cannot be compared.")
        self._widths = [kinds.pop() for kinds in widths]
        self.width = sum(self._widths)
        self._faiss: Any = None

    def __len__(self) -> int:
        return len(self._names)

    @property
    def exact(self) -> bool:
        """Whether all pictures are compared: there are at most :data:`EXACT`, or faiss is not installed."""
        return len(self) <= EXACT or find_spec("faiss") is None

    def vectors(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, width) unit vectors of pictures by their numbers in the order of the store."""
        out = np.empty((len(numbers), self.width), np.float32)
        left = 0
        for parts, (part_of, line_of), width in zip(self._parts, self._where, self._widths, strict=True):
            parts_here, lines = part_of[numbers], line_of[numbers]
            for part in np.unique(parts_here):
                here = np.flatnonzero(parts_here == part)
                out[here, left : left + width] = parts[part].vectors[lines[here]]
            left += width
        out /= len(self._parts) ** 0.5
        return out

    def nearest(self, query: str | int | FeatureMap, k: int = 10) -> list[Similar]:
        """The pictures most like one, best first; of equals the earlier in the store.

        A picture of the store is not told that it is like itself.

        Args:
            query: Name, digest or number of a picture of the store, or features by the store's recipe.
            k: How many pictures.

        Raises:
            UnknownNameError: No such picture, or features without a map that is compared.
            InvalidValueError: ``k`` is less than 1, or the features are of another recipe.
        """
        import pyarrow as pa

        if k < 1:
            raise InvalidValueError(f"One picture or more can be found, not {k}.")
        own = None if isinstance(query, FeatureMap) else self._number(query)
        vector = self._pooled(query) if isinstance(query, FeatureMap) else self.vectors(np.array([own]))[0]
        wanted = min(k + (own is not None), len(self))
        numbers, cosines = self._compared(vector, wanted) if self.exact else self._looked_up(vector, wanted)
        names = self._names.take(pa.array(numbers)).to_pylist()
        pairs = zip(numbers.tolist(), names, cosines.tolist(), strict=True)
        return [Similar(name, min(1.0, max(-1.0, cosine))) for number, name, cosine in pairs if number != own][:k]

    def _number(self, key: str | int) -> int:
        import pyarrow as pa
        import pyarrow.compute as pc

        if not isinstance(key, str):
            return place_of(key, len(self)) % len(self)
        name = self._store.named(key)
        code = pc.call_function("index", [self._names.dictionary], pc.IndexOptions(pa.scalar(name))).as_py()
        numbers = np.flatnonzero(self._names.indices.to_numpy() == code)
        if code < 0 or not len(numbers):
            raise UnknownNameError(f"{shown(name)} was stored after these features were pooled. Pool once more.")
        return int(numbers[0])

    def _pooled(self, features: FeatureMap) -> NDArray[np.float32]:
        made_by = features.provenance.get("recipe_hash")
        if made_by is not None and made_by != self._hash:
            raise InvalidValueError(
                f"{features.image or 'The picture'} was extracted by another recipe ({str(made_by)[:12]}) than the "
                f"store ({self._hash[:12]}). Extract it by the store's."
            )
        vectors = [unit(features.pooled(name).numpy()[None])[0] for name in self.activations]
        if [len(vector) for vector in vectors] != self._widths:
            raise InvalidValueError(f"Vectors of {self._widths} channels are compared, got {[*map(len, vectors)]}.")
        return (np.concatenate(vectors) / len(vectors) ** 0.5).astype(np.float32)

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        """Numbers of all pictures in the order in which their vectors lie."""
        part_of, line_of = self._where[0]
        return np.lexsort([line_of, part_of])

    def _blocks(self) -> Iterator[NDArray[np.int64]]:
        size = max(1, _BLOCK_BYTES // (4 * self.width))
        yield from (self._order[start : start + size] for start in range(0, len(self), size))

    def _compared(self, vector: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        cosines = np.empty(len(self), np.float32)
        for numbers in self._blocks():
            cosines[numbers] = self.vectors(numbers) @ vector
        return _best(np.arange(len(self)), cosines, k)

    def _looked_up(self, vector: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Candidates of an inverted index, compared exactly."""
        if self._faiss is None:
            self._faiss = self._built()
        _, found = self._faiss.search(vector[None], min(len(self), _CANDIDATES * k))
        numbers = np.sort(found[0][found[0] >= 0])
        return _best(numbers, self.vectors(numbers) @ vector, k)

    def _built(self) -> Any:
        """An inverted index in memory, two bytes a channel; learned from a sample of the pictures."""
        faiss = import_module("faiss")
        lists = min(_LISTS, max(1, int(len(self) ** 0.5)))
        sample = np.random.default_rng(0).permutation(len(self))[: lists * _SAMPLE]
        coarse = faiss.IndexFlatIP(self.width)  # which the other keeps alive
        kind = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(coarse, self.width, lists, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(self.vectors(np.sort(sample)))
        for numbers in self._blocks():
            index.add_with_ids(self.vectors(numbers), numbers)
        index.nprobe = min(lists, _PROBES)
        return index


def _best(
    numbers: NDArray[np.int64], cosines: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``k`` greatest to six decimals, the greatest first; of equals the smaller number."""
    cosines = np.round(cosines, 6)  # what the order of sums changes does not decide
    if k < len(cosines):  # all that are as good as the last one
        keep = np.flatnonzero(cosines >= np.partition(cosines, len(cosines) - k)[len(cosines) - k])
        numbers, cosines = numbers[keep], cosines[keep]
    order = np.lexsort([numbers, -cosines])[:k]
    return numbers[order], cosines[order]
