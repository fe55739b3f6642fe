"""The feature store: a folder that is right at every moment (its files: :mod:`diffeat.storage.layout`).

A picture is its name, the digest of its content, and the text that the model read. A name stands for one picture:
writing it once more replaces what readers see, and touches no other picture. Every file is written under a temporary
name, flushed, and renamed; first the shard, then its part of the index. Nothing that is complete is ever changed or
removed, except by :func:`~diffeat.storage.upkeep.compact`. A run that dies leaves complete shards, and at most files
that do not count. The same features give the same bytes, so an interrupted and resumed store equals one that was never
interrupted.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePath
from typing import Any, NamedTuple, Self

from diffeat.errors import InvalidValueError, StoreError, UnknownNameError, did_you_mean
from diffeat.features import FeatureMap, Source
from diffeat.storage.atomic import DamagedError, WriterLock, disk_errors, sync_folder
from diffeat.storage.formats import get_format
from diffeat.storage.head import Head, check_vacant
from diffeat.storage.index import Index, table_of, to_parquet
from diffeat.storage.layout import HEAD_FILE, IndexName, check, place, shard_file, temporaries
from diffeat.storage.report import VerifyReport, listing, verify
from diffeat.storage.shard import Maps, Sealed, ShardReader, Window, encoded, seal

_OPEN_SHARDS = 32  # mapped at once by one reader


class Identity(NamedTuple):
    """What a stored picture is of: the digest of its content, and the text that the model read."""

    digest: str
    text: str


class FeatureStore:
    """Features of many pictures on disk.

    Make one with :meth:`create`, :meth:`open` or :meth:`open_or_create`. A store opened by ``create`` or
    ``open_or_create`` is its folder's only writer until :meth:`close`, the end of a ``with`` block, or the end of
    the process; opened with ``shared=True``, or after :meth:`share`, one of several processes that write side by side.
    These remove nothing; the last one that closes tidies. Any number of readers may look on. Pickled, it is a reader.

    Attributes:
        path: The folder.
        head: The recipe, its hash, the dtype (see :mod:`diffeat.storage.formats`) and the model's fingerprint.
    """

    def __init__(
        self, path: Path, head: Head, lock: WriterLock | None = None, *, unmade: bool = False, shared: bool = False
    ) -> None:
        self.path = path
        self.head = head
        self._lock = lock
        self._unmade = unmade  # to be made by the first write
        self._shared = shared
        self._readers: OrderedDict[str, ShardReader] = OrderedDict()
        self._index: Index | None = None
        self._by_digest: dict[str, str] | None = None

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

    # --- opening ---------------------------------------------------------------------------------

    @staticmethod
    def is_store(path: str | os.PathLike[str]) -> bool:
        """Whether a folder is a feature store."""
        return os.path.isfile(Path(path, HEAD_FILE))

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        recipe: dict[str, Any],
        recipe_hash: str,
        dtype: str = "float32",
        weights: str = "",
    ) -> Self:
        """Make a new store in a folder that is new or empty.

        Raises:
            StoreError: The folder holds something, or cannot be written.
        """
        get_format(dtype)
        store = cls(Path(path), Head(recipe, recipe_hash, dtype, weights), unmade=True)
        store._make()
        return store

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a store to read.

        Raises:
            StoreError: Not a store, damaged, or of another format.
        """
        folder = Path(path)
        return cls(folder, Head.read(folder))

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        source: Source[FeatureMap],
        dtype: str = "float32",
        *,
        shared: bool = False,
    ) -> Self:
        """Open the store of a source's features to go on writing, or make it; raises as :meth:`open_or_create`."""
        recipe = source.recipe
        return cls.open_or_create(path, recipe.content(), recipe.hash, dtype, source.fingerprint, shared=shared)

    @classmethod
    def open_or_create(
        cls,
        path: str | os.PathLike[str],
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
        folder, head = Path(path), Head(recipe, recipe_hash, dtype, weights)
        if cls.is_store(folder):
            return cls.open_to_write(folder, head, shared=shared)
        check_vacant(folder)
        return cls(folder, head, unmade=True, shared=shared)

    @classmethod
    def open_to_write(cls, path: str | os.PathLike[str], wanted: Head | None = None, *, shared: bool = False) -> Self:
        """Open a store that is there to go on writing; arguments and errors as of :meth:`open_or_create`."""
        folder = Path(path)
        Head.read(folder)
        with disk_errors(folder), ExitStack() as undo:
            lock = WriterLock(folder, shared=shared)
            undo.callback(lock.release)
            head = Head.read(folder)  # again: another run may have compacted it before the lock was had
            if wanted is not None:
                head.require(wanted, folder)
            if lock.alone:
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
            self._lock.share()

    def refresh(self) -> None:
        """Forget the index, so that what others wrote meanwhile is seen."""
        self._index = self._by_digest = None

    def close(self) -> None:
        """Let other processes write, and unmap the shards. The last writer removes what others left unfinished."""
        self._readers.clear()
        if self._lock is not None:
            if self._shared and self._lock.held and self._lock.last():
                with suppress(OSError):
                    _tidy(self.path)
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "head": self.head}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], state["head"])

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

    def packed(self, feature: FeatureMap, text: str) -> Maps:
        """A picture as it will lie on disk, for :meth:`write_packed`; raises as :meth:`write_shard`."""
        before = self._read_index().pictures.get(feature.image)
        return encoded(feature, text, 1 + before.generation if before else 0, self.dtype)

    def write_packed(self, pictures: Sequence[Maps], *, position: int = 0) -> None:
        """Store pictures that are packed; raises as :meth:`write_shard`."""
        self._check_writable()
        if not pictures:
            raise InvalidValueError("A shard without pictures is not written.")
        self.write_sealed(seal(pictures, self.dtype, position))

    def write_sealed(self, shard: Sealed) -> None:
        """Store a shard that is ready; raises as :meth:`write_shard`."""
        self._check_writable()
        if self._unmade:
            self._make()
        index, table = self._read_index(), table_of(shard.rows)
        names = {row.image for row in shard.rows}
        if all(name in index.pictures and index.rows(name)[0].shard == shard.shard for name in names):
            place(self.path, (shard_file(self.path, shard.shard), shard.data))  # a damaged one is mended
            return
        part = to_parquet(table, self.recipe_hash)
        place(
            self.path,
            (shard_file(self.path, shard.shard), shard.data),
            (IndexName.of(self.head.epoch, "new", part).within(self.path), part),
        )
        self._readers.pop(shard.shard, None)
        self._by_digest = None
        if index.damaged:  # perhaps one less
            self._index = None
        else:
            index.add(table)

    def whole(self, names: Iterable[str]) -> set[str]:
        """Those of the pictures whose shards are what they were when they were written; reads all of these.

        Raises:
            StoreError: A shard cannot be read for another reason than damage.
        """
        wanted, index, by_shard = set(names), self._read_index(), dict[tuple[str, int], set[str]]()
        for name, shard, size in zip(index.pictures, index.column("shard"), index.column("size"), strict=True):
            if name in wanted:
                by_shard.setdefault((shard, size), set()).add(name)
        sound: set[str] = set()
        for (shard, size), pictures in by_shard.items():
            with suppress(DamagedError):
                check(shard_file(self.path, shard), shard, size)
                sound |= pictures
        return sound

    def _make(self) -> None:
        """Make the folder and the head, or take those that one who writes beside has just made."""
        with disk_errors(self.path), ExitStack() as undo:
            if not self._shared:
                check_vacant(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = _lock_for_making(self.path, shared=self._shared)
            undo.callback(self._lock.release)
            if self._shared and self.is_store(self.path):
                there = Head.read(self.path)
                there.require(self.head, self.path)
                self.head = there
            else:
                check_vacant(self.path)  # nobody came before the lock was had
                if self._lock.alone:
                    _tidy(self.path)
                self.head.write(self.path)
                sync_folder(self.path.parent)
            if self._shared:
                self._lock.share()
            self._unmade = False
            undo.pop_all()

    def _check_writable(self) -> None:
        if not self._unmade and (self._lock is None or not self._lock.held):
            raise StoreError(f"The store {self.path} is open to read only. Use open_or_create to write.")

    # --- reading ---------------------------------------------------------------------------------

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
        return list(self.index().pictures)

    def keys(self) -> list[str]:
        """Digests of the pictures, likewise; a content stored under two names counts once."""
        return list(dict.fromkeys(self.index().column("digest")))

    def identities(self, *, partial: bool = False) -> dict[str, Identity]:
        """What every stored picture is of, by name.

        Args:
            partial: Do without what stood in damaged files of the index.
        """
        index = self._read_index() if partial else self.index()
        return dict(zip(index.pictures, map(Identity, index.column("digest"), index.column("text")), strict=True))

    def name_of(self, path: str | os.PathLike[str]) -> str | None:
        """The name under which a file is stored: its path as given, or the longest tail of it that is one."""
        pictures = self._read_index().pictures
        parts = Path(os.path.abspath(path)).parts
        tails = (PurePath(*parts[start:]).as_posix() for start in range(len(parts)))
        return next((name for name in (Path(path).as_posix(), *tails) if name in pictures), None)

    def activations(self) -> list[str]:
        """Names of all activations."""
        return self.index().activations()

    def __len__(self) -> int:
        return len(self.index().pictures)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._name(key) is not None

    def __iter__(self) -> Iterator[FeatureMap]:
        for name in self.names():
            yield self._load(name, None, None)

    def load(self, key: str, activations: Sequence[str] | None = None, window: Window | None = None) -> FeatureMap:
        """Read one picture; only what is asked for is read from disk.

        Args:
            key: Name or digest.
            activations: Names of the wanted maps; all if not given.
            window: (top, left, height, width) in cells of the wanted maps. The frame stays that of the whole
                picture; ``provenance["window"]`` tells the cells.

        Returns:
            Maps in the store's dtype; float32 for int8. Whole maps are checked, windows of them are not.

        Raises:
            UnknownNameError: No such picture or activation.
            InvalidValueError: The window is not inside a map.
            StoreError: The shard is damaged.
        """
        name = self._name(key)
        if name is None:
            near = did_you_mean(key, self.names()[:5000])
            raise UnknownNameError(f"The store {self.path} has no picture {key!r}. {near}")
        return self._load(name, activations, window)

    def verify(self) -> VerifyReport:
        """Read everything again: the index, hashes, shapes, ranges, finite values, leftovers."""
        return verify(self.path)

    def listing(self) -> str:
        """Tables of the activations and the pictures, with sizes."""
        index = self.index()
        return listing(self.path, self.head, [index.rows(name) for name in index.pictures])

    def _name(self, key: str) -> str | None:
        """The picture of a name or a digest; names go first."""
        index = self.index()
        if key in index.pictures:
            return key
        if self._by_digest is None:
            self._by_digest = dict(zip(index.column("digest")[::-1], list(index.pictures)[::-1], strict=True))
        return self._by_digest.get(key)

    def _load(self, name: str, wanted: Sequence[str] | None, window: Window | None) -> FeatureMap:
        by_name = {row.activation: row for row in self.index().rows(name)}
        for activation in wanted or ():
            if activation not in by_name:
                near = did_you_mean(activation, by_name)
                raise UnknownNameError(f"{name} has no activation {activation!r}. {near}")
        first = next(iter(by_name.values()))
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


def _lock_for_making(folder: Path, *, shared: bool) -> WriterLock:
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
