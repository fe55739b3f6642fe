"""Reading a feature store."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import torch

from diffeat.errors import InvalidValueError, StoreError, UnknownNameError, did_you_mean, shown
from diffeat.features import FeatureMap
from diffeat.notebook import Displayed, Html, folded
from diffeat.progress import Progress, silent
from diffeat.storage.browse import Page, named_like, place_of
from diffeat.storage.dataset import StoredFeatures
from diffeat.storage.head import Head
from diffeat.storage.index import Index
from diffeat.storage.layout import shard_file
from diffeat.storage.report import VerifyReport, listing, verify
from diffeat.storage.rows import Row
from diffeat.storage.shard import ShardReader, Window
from diffeat.storage.similar import Pooled, Similar
from diffeat.storage.url import Place

_OPEN_SHARDS = 32  # mapped at once by one reader


class Identity(NamedTuple):
    """What a stored picture is of: the digest of its content, and the text that the model read."""

    digest: str
    text: str


class StoreReader(Displayed):
    """The reading half of a :class:`~diffeat.storage.FeatureStore`, which tells of its attributes."""

    def __init__(self, path: Place, head: Head) -> None:
        self.path = path
        self.head = head
        self._readers: OrderedDict[str, ShardReader] = OrderedDict()
        self._index: Index | None = None
        self._pooled: Pooled | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe's content, plain data."""
        return self.head.recipe

    @property
    def recipe_hash(self) -> str:
        """The recipe's hash."""
        return self.head.recipe_hash

    @property
    def dtype(self) -> str:
        """``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"``."""
        return self.head.dtype

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        read = {} if self._index is None else {"pictures": f"{len(self._index):,}"}
        return str(self.path), {**read, "dtype": self.dtype, "recipe": self.recipe_hash[:12]}

    def _details(self) -> Iterable[Html]:
        yield folded(f"{len(self):,} pictures", self.listing())

    def refresh(self) -> None:
        """Forget the index, so that what others wrote meanwhile is seen."""
        self._index = self._pooled = None

    def index(self) -> Index:
        """The rows, read once.

        Raises:
            StoreError: Rows are lost, so that pictures may be missing, or replaced ones come back.
        """
        index = self._read_index()
        if index.damaged:
            more = f" (and {len(index.damaged) - 1} more)" if len(index.damaged) > 1 else ""
            raise StoreError(
                f"{index.damaged[0]}{more} Run the same extraction again. If it is damaged still, delete the file: its "
                "pictures then count as never extracted."
            )
        return index

    def _read_index(self) -> Index:
        if self._index is None:
            self._index = Index.read(self.path, self.head)
        return self._index

    def names(self) -> list[str]:
        """Names of the pictures, in the order they were given in."""
        return self.index().names()

    def keys(self) -> list[str]:
        """Digests of the pictures, likewise; a content stored under two names counts once."""
        return list(dict.fromkeys(self.index().column("digest")))

    def identities(self, names: Sequence[str] | None = None, *, partial: bool = False) -> dict[str, Identity]:
        """What stored pictures are of, by name: all, or those of some names that are stored.

        Args:
            partial: Do without what stood in damaged files of the index.
        """
        index = self._read_index() if partial else self.index()
        found, numbers = (index.names(), None) if names is None else index.find(names)
        pairs = map(Identity, index.column("digest", numbers), index.column("text", numbers))
        return dict(zip(found, pairs, strict=True))

    def known(self, stamps: Mapping[str, str]) -> dict[str, Identity]:
        """What is stored of files that are as they were when they were read, which nobody needs to read again.

        Args:
            stamps: Size and time of files, by the names of the pictures (:func:`~diffeat.storage.stamp_of`).

        Returns:
            The identities of those that were stored with the same stamps.
        """
        index = self._read_index()
        names, numbers = index.find([name for name, stamp in stamps.items() if stamp])
        columns = (index.column(field, numbers) for field in ("stamp", "digest", "text"))
        return {
            name: Identity(digest, text)
            for name, stamp, digest, text in zip(names, *columns, strict=True)
            if stamp == stamps[name]
        }

    def name_of(self, path: str | os.PathLike[str]) -> str | None:
        """The name under which a file is stored: its path as given, or the longest tail of it that is one."""
        index = self._read_index()
        parts = Path(os.path.abspath(path)).parts
        tails = (PurePath(*parts[start:]).as_posix() for start in range(len(parts)))
        return next((name for name in (Path(path).as_posix(), *tails) if name in index), None)

    def named(self, key: str) -> str:
        """The name of a picture by its name or digest.

        Raises:
            InvalidValueError: It is no text.
            UnknownNameError: No such picture.
        """
        if not isinstance(key, str):
            raise InvalidValueError(f"A picture's name or digest is a text, not {shown(key)}.")
        index = self.index()
        name = key if key in index else index.named(key)
        if name is None:
            near = did_you_mean(key, self.find(most=5000).names)
            raise UnknownNameError(f"The store {self.path} has no picture {shown(key)}. {near}".rstrip())
        return name

    def find(self, text: str = "", start: int = 0, most: int = 100) -> Page:
        """Names of pictures, a page of them; see :func:`~diffeat.storage.browse.named_like`."""
        return named_like(self.index(), text, start, most)

    def pooled(
        self, activations: str | Sequence[str] | None = None, *, keep: bool = True, progress: Progress = silent
    ) -> Pooled:
        """Pooled features, to find pictures that are alike (see :mod:`diffeat.storage.similar`).

        What was not pooled before is read and pooled now.

        Args:
            activations: The maps that are compared; all if not given.
            keep: Whether what is pooled now is kept in the store's folder, where that can be written.
            progress: How to show the pictures go by that are read.

        Raises:
            UnknownNameError: No such activation.
            InvalidValueError: The store is empty.
            StoreError: A shard is damaged, or maps of one name have different channels.
        """
        return Pooled(self, activations, keep=keep, progress=progress)

    def nearest(self, query: str | int | FeatureMap, k: int = 10) -> list[Similar]:
        """The pictures most like one by the pooled features of all maps; see :meth:`Pooled.nearest`.

        They are pooled at the first call, and kept.
        """
        if self._pooled is None:
            self._pooled = self.pooled()
        return self._pooled.nearest(query, k)

    def activations(self) -> list[str]:
        """Names of all activations."""
        return self.index().activations()

    def __len__(self) -> int:
        return len(self.index())

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and (key in self.index() or self.index().named(key) is not None)

    def __iter__(self) -> Iterator[FeatureMap]:
        index = self.index()
        for number in range(len(index)):
            yield self._load(index.at(number), None, None)

    def load(
        self, key: str | int, activations: Sequence[str] | None = None, window: Window | None = None
    ) -> FeatureMap:
        """Read one picture; only what is asked for is read from disk.

        Args:
            key: Name or digest, or the place in the order of :meth:`names`.
            activations: Names of the wanted maps; all if not given.
            window: (top, left, height, width) in cells of the wanted maps. The frame stays that of the whole
                picture; ``provenance["window"]`` tells the cells.

        Returns:
            Maps in the store's dtype; float32 for int8. Whole maps are checked, windows of them are not.

        Raises:
            UnknownNameError: No such picture or activation.
            InvalidValueError: The window is not inside a map, or the key is neither a number nor a name.
            StoreError: The shard is damaged.
        """
        return self._load(self._rows(key), activations, window)

    def dataset(
        self,
        activations: str | Sequence[str] | None = None,
        window: Window | None = None,
        dtype: torch.dtype | None = None,
        *,
        numpy: bool = False,
    ) -> StoredFeatures:
        """A ``torch.utils.data.Dataset`` of the pictures, by number and by name.

        Args:
            activations: One, whose map alone is an item, or several; all if not given.
            window: (top, left, height, width) in cells, of every picture; an item may bring its own.
            dtype: Of the values, if another than the store's.
            numpy: Arrays instead of tensors; float16 stays, bfloat16 becomes float32.

        Raises:
            StoreError: Rows of the index are lost.
        """
        return StoredFeatures(self, activations, window, dtype, numpy=numpy)

    def verify(self) -> VerifyReport:
        """Read everything again: the index, hashes, shapes, ranges, finite values, leftovers."""
        return verify(self.path)

    def listing(self) -> str:
        """Tables of the activations and the pictures, with sizes."""
        return listing(self.path, self.head, self.index())

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "head": self.head}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["head"])

    def _rows(self, key: str | int) -> list[Row]:
        index = self.index()
        if not isinstance(key, str):
            return index.at(place_of(key, len(index)))
        return index.rows(self.named(key))

    def _load(self, rows: Sequence[Row], wanted: Sequence[str] | None, window: Window | None) -> FeatureMap:
        by_name = {row.activation: row for row in rows}
        first = rows[0]
        for activation in wanted or ():
            if activation not in by_name:
                near = did_you_mean(activation, by_name)
                raise UnknownNameError(f"{first.image} has no activation {activation!r}. {near}")
        reader = self._reader(first.shard, first.size)
        maps = {activation: reader.read(by_name[activation], window) for activation in (wanted or by_name)}
        frame, provenance = first.origin()
        if window is not None:
            provenance["window"] = list(window)
        return FeatureMap(maps, frame, first.image, first.digest, provenance)

    def _reader(self, shard: str, size: int) -> ShardReader:
        if shard not in self._readers:
            self._readers[shard] = ShardReader(shard_file(self.path, shard), size)
            if len(self._readers) > _OPEN_SHARDS:
                self._readers.popitem(last=False)
        self._readers.move_to_end(shard)
        return self._readers[shard]
