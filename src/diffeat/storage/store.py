"""The feature store: a folder that is right at every moment (its files: :mod:`diffeat.storage.layout`).

A picture is its name, the digest of its content, and the text that the model read. A name stands for one picture:
writing it once more replaces what readers see, and touches no other picture. Every file is written under a temporary
name, flushed, and renamed; first the shard, then its part of the index. Nothing that is complete is ever changed or
removed, except by :func:`~diffeat.storage.upkeep.compact`. A run that dies leaves complete shards, and at most files
that do not count. The same features give the same bytes, so an interrupted and resumed store equals one that was never
interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from diffeat.errors import InvalidValueError, StoreError, shown
from diffeat.features import FeatureMap, Source
from diffeat.storage.atomic import WriterLock, disk_errors, sync_folder
from diffeat.storage.formats import get_format
from diffeat.storage.head import Head, check_vacant
from diffeat.storage.index import Index
from diffeat.storage.layout import HEAD_FILE, IndexName, place, shard_file, temporaries
from diffeat.storage.reader import StoreReader
from diffeat.storage.rows import table_of, to_parquet
from diffeat.storage.settle import due, settle, sound_shards, sum_up
from diffeat.storage.shard import Maps, Sealed, encoded, seal
from diffeat.storage.url import Place, PlaceLike, Url, place_of


class FeatureStore(StoreReader):
    """Features of many pictures on disk.

    Make one with :meth:`create`, :meth:`open` or :meth:`open_or_create`. A store opened by ``create`` or
    ``open_or_create`` is its folder's only writer until :meth:`close`, the end of a ``with`` block, or the end of
    the process; opened with ``shared=True``, or after :meth:`share`, one of several processes that write side by side.
    These remove nothing; the last one that closes tidies. Any number of readers may look on. Pickled, it is a reader.

    Attributes:
        path: The folder, or the URL.
        head: The recipe, its hash, the dtype (see :mod:`diffeat.storage.formats`) and the model's fingerprint.
    """

    def __init__(
        self, path: Place, head: Head, lock: WriterLock | None = None, *, unmade: bool = False, shared: bool = False
    ) -> None:
        super().__init__(path, head)
        self._lock = lock
        self._unmade = unmade  # to be made by the first write
        self._shared = shared
        self._sound: set[str] = set()  # shards that were written, or found whole, by this one or since it shared
        self._before: set[str] | None = None  # shards that were there when it began to share

    # --- opening ---------------------------------------------------------------------------------

    @staticmethod
    def is_store(path: PlaceLike) -> bool:
        """Whether a folder is a feature store."""
        file = place_of(path) / HEAD_FILE
        try:
            return file.is_file()
        except OSError as error:
            raise StoreError(f"{file} cannot be read ({error.strerror}).") from error

    @classmethod
    def create(
        cls, path: PlaceLike, recipe: dict[str, Any], recipe_hash: str, dtype: str = "float32", weights: str = ""
    ) -> Self:
        """Make a new store in a folder that is new or empty.

        Raises:
            StoreError: The folder holds something, or cannot be written.
        """
        get_format(dtype)
        store = cls(place_of(path), Head(recipe, recipe_hash, dtype, weights), unmade=True)
        store._make()
        return store

    @classmethod
    def open(cls, path: PlaceLike) -> Self:
        """Open a store to read.

        Raises:
            StoreError: Not a store, damaged, or of another format.
        """
        folder = place_of(path)
        return cls(folder, Head.read(folder))

    @classmethod
    def of(cls, path: PlaceLike, source: Source[FeatureMap], dtype: str = "float32", *, shared: bool = False) -> Self:
        """Open the store of a source's features to go on writing, or make it; raises as :meth:`open_or_create`."""
        recipe = source.recipe
        return cls.open_or_create(path, recipe.content(), recipe.hash, dtype, source.fingerprint, shared=shared)

    @classmethod
    def open_or_create(
        cls,
        path: PlaceLike,
        recipe: dict[str, Any],
        recipe_hash: str,
        dtype: str = "float32",
        weights: str = "",
        *,
        shared: bool = False,
    ) -> Self:
        """Open a store to go on writing; where there is none, the first write makes it.

        ``weights`` is the fingerprint of the model (``Extractor.fingerprint``), so that features of two models under
        one name never mix; empty where it is not known. ``shared``: others may write beside.

        Raises:
            StoreError: The store was made by another recipe, another model or with another dtype (the differences are
                named), another process is writing to it, it cannot be written, or the folder holds something else.
        """
        get_format(dtype)
        folder, head = place_of(path), Head(recipe, recipe_hash, dtype, weights)
        if cls.is_store(folder):
            return cls.open_to_write(folder, head, shared=shared)
        with disk_errors(folder):
            check_vacant(folder)
        return cls(folder, head, unmade=True, shared=shared)

    @classmethod
    def open_to_write(cls, path: PlaceLike, wanted: Head | None = None, *, shared: bool = False) -> Self:
        """Open a store that is there to go on writing; arguments and errors as of :meth:`open_or_create`."""
        folder = place_of(path)
        Head.read(folder)
        with disk_errors(folder), ExitStack() as undo:
            lock = WriterLock(folder, shared=shared)
            undo.callback(lock.release)
            head = Head.read(folder)  # again: another run may have compacted it before the lock was had
            if wanted is not None:
                head.require(wanted, folder)
            if lock.alone and isinstance(folder, Path):
                _tidy(folder)
            undo.pop_all()
        return cls(folder, head, lock, shared=shared)

    def share(self) -> None:
        """Let other processes, which open it with ``shared=True``, write beside; a store that is to be made is made.

        Raises:
            StoreError: As :meth:`open_or_create`.
        """
        self._check_writable()
        self._shared = True
        if self._unmade:
            self._make()
        elif self._lock is not None:
            self._before = set(self._read_index().shards)
            self._lock.share()

    def consolidate(self) -> None:
        """Sum the index up in one file, so that the store is quick to open; done unasked where there are many parts.

        Raises:
            StoreError: The store is open to read only, rows are lost, or the disk is full or not writable.
        """
        self._check_writable()
        if not self._unmade and self.index().late:
            sum_up(self.path, self.head, self.index(), alone=self._alone)
            self.refresh()

    def close(self) -> None:
        """Let other processes write, and unmap the shards. The last writer removes what others left unfinished."""
        self._readers.clear()
        lock, self._lock = self._lock, None
        if lock is None:
            return
        try:
            if lock.held and (self._shared or self._index is not None) and (self._url or lock.last()):
                with suppress(OSError, StoreError):  # nothing that is needed
                    self._leave()
        finally:
            lock.release()

    def _leave(self) -> None:
        if self._shared:
            self.refresh()
            if isinstance(self.path, Path):
                _tidy(self.path)
        index = self._read_index()
        if due(index, running=False):
            sum_up(self.path, self.head, index, alone=not self._url)
            self.refresh()
        if isinstance(self.path, Path):
            index = self._read_index()
            since = set() if self._before is None else index.shards.keys() - self._before
            settle(self.path, self.head, index, self._sound | since)

    @property
    def _url(self) -> bool:
        return isinstance(self.path, Url)

    @property
    def _alone(self) -> bool:
        return self._lock is not None and self._lock.alone

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- writing ---------------------------------------------------------------------------------

    def write_shard(
        self, features: Sequence[FeatureMap], texts: Sequence[str] | None = None, *, position: int = 0
    ) -> None:
        """Store some pictures; when this returns they are on disk, and before that nothing of them is.

        A picture whose name is stored already replaces that one.

        Args:
            features: The pictures.
            texts: What the model read for each; empty if not given.
            position: Place of the shard in the order of iteration.

        Raises:
            StoreError: The store is open to read only, or the disk is full or not writable. Complete shards
                stay.
            NonFiniteError: Values that are not finite, or not in the store's dtype (the activation is named).
            InvalidValueError: There is nothing to store.
        """
        self._check_writable()
        pairs = zip(features, texts or [""] * len(features), strict=True)
        self.write_packed([self.packed(feature, text) for feature, text in pairs], position=position)

    def packed(self, feature: FeatureMap, text: str, stamp: str = "") -> Maps:
        """A picture as it will lie on disk, for :meth:`write_packed`; raises as :meth:`write_shard`.

        Args:
            stamp: Of its file (:func:`~diffeat.storage.stamp_of`), taken before it was read.
        """
        recipe = feature.provenance.get("recipe_hash", self.recipe_hash)
        if recipe != self.recipe_hash:
            raise StoreError(
                f"{feature.image} was extracted by another recipe ({shown(recipe)}) than the features of {self.path} "
                f"({self.recipe_hash!r}). Write to another folder."
            )
        return encoded(feature, text, self.dtype, stamp)

    def write_packed(self, pictures: Sequence[Maps], *, position: int = 0) -> None:
        """Store pictures that are packed; raises as :meth:`write_shard`."""
        self._check_writable()
        if not pictures:
            raise InvalidValueError("A shard without pictures is not written.")
        index, after = self._read_index(), list[Maps]()
        for maps in pictures:
            before = index.generation(maps[0][0].image)
            next_one = 0 if before is None else before + 1
            after.append([(replace(row, generation=next_one), stored) for row, stored in maps])
        self.write_sealed(seal(after, self.dtype, position))

    def write_sealed(self, shard: Sealed) -> None:
        """Store a shard that is ready; raises as :meth:`write_shard`."""
        self._check_writable()
        if self._unmade:
            self._make()
        index, table = self._read_index(), table_of(shard.rows)
        names = {row.image for row in shard.rows}
        file = shard_file(self.path, shard.shard)
        self._sound.add(shard.shard)
        if all(name in index and index.rows(name)[0].shard == shard.shard for name in names):
            place(self.path, (file, shard.chunks))  # a damaged one is mended
            return
        data = to_parquet(table, self.recipe_hash)
        part = IndexName.of(self.head.epoch, "new", [data])
        place(self.path, (file, shard.chunks), (part.within(self.path), [data]))
        self._readers.pop(shard.shard, None)
        if index.damaged:  # perhaps one less
            self.refresh()
            return
        index.add(table, part)
        self._pooled = None
        if due(index, running=True) and (self._alone or self._url):
            with suppress(StoreError):  # the shard is stored all the same
                self.consolidate()

    def whole(self, names: Iterable[str]) -> set[str]:
        """Those of the pictures whose shards are what they were when they were written; reads the shards that changed
        since all was last known to be whole.

        Raises:
            StoreError: A shard cannot be read for another reason than damage.
        """
        index = self._read_index()
        found, numbers = index.find(list(names))
        shards = index.column("shard", numbers)
        sound = sound_shards(self.path, dict(zip(shards, index.column("size", numbers), strict=True)))
        self._sound |= sound
        return {name for name, shard in zip(found, shards, strict=True) if shard in sound}

    def _read_index(self) -> Index:
        return Index() if self._unmade else super()._read_index()

    def _make(self) -> None:
        """Make the folder and the head, or take those that one who writes beside has just made."""
        beside = self._shared or self._url  # where there are no locks, others may always write beside
        with disk_errors(self.path), ExitStack() as undo:
            if not beside:
                check_vacant(self.path)
            if isinstance(self.path, Path):
                self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_for_making(self.path, shared=self._shared)
            undo.callback(self._lock.release)
            if not (beside and self.is_store(self.path)):
                check_vacant(self.path)  # nobody came before the lock was had
                if isinstance(self.path, Path):
                    if self._lock.alone:
                        _tidy(self.path)
                    self.head.write(self.path)
                    sync_folder(self.path.parent)
                else:
                    with suppress(FileExistsError):  # another came first
                        self.head.write(self.path, new=True)
            there = Head.read(self.path)
            there.require(self.head, self.path)
            self.head = there
            if self._shared:
                self._lock.share()
                self._before = set()
            self._unmade = False
            undo.pop_all()

    def _check_writable(self) -> None:
        if not self._unmade and (self._lock is None or not self._lock.held):
            raise StoreError(f"The store {self.path} is open to read only. Use open_or_create to write.")


def _lock_for_making(folder: Place, *, shared: bool) -> WriterLock:
    """The right to write alone; shared, if that is wanted, where another who shares has come first."""
    for _ in range(100):
        with suppress(StoreError):
            return WriterLock(folder)
        if not shared or FeatureStore.is_store(folder):
            break
        time.sleep(0.05)  # he is making it
    return WriterLock(folder, shared=shared)


def _tidy(folder: Path) -> None:
    """Remove what writes left that were never finished; only for who has the lock."""
    for file in temporaries(folder):
        file.unlink()
