"""The feature store: a folder that is right at every moment.

::

    store.json                what made the features: recipe, its hash, dtype, format version
    shards/<id>.safetensors   the maps of some pictures
    index/<id>.parquet        their rows; the shard is complete when this file is there

Every file is written under a temporary name, flushed, and renamed; first the shard, then its part of the
index. A run that dies leaves complete shards and leftovers; the next writer removes the leftovers. The same
features give the same bytes, so an interrupted and resumed store equals one that was never interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from diffeat.errors import InvalidValueError, StoreError, UnknownNameError, did_you_mean
from diffeat.features import FeatureMap, Source
from diffeat.geometry import Frame
from diffeat.storage.atomic import TEMPORARY, StagedFile, WriterLock, disk_errors, sync_folder
from diffeat.storage.formats import get_format
from diffeat.storage.head import HEAD_FILE, Head
from diffeat.storage.index import Part, Row, in_order, read_part
from diffeat.storage.report import VerifyReport, check_shard, listing
from diffeat.storage.shard import ShardReader, Window, pack

_OPEN_SHARDS = 32  # mapped at once by one reader


class FeatureStore:
    """Features of many pictures on disk.

    Make one with :meth:`create`, :meth:`open` or :meth:`open_or_create`. A store opened by ``create`` or
    ``open_or_create`` is its folder's only writer until :meth:`close`, the end of a ``with`` block, or the end of
    the process. Any number of readers may look on.

    Attributes:
        path: The folder.
        recipe: The recipe's content, plain data.
        recipe_hash: The recipe's hash.
        dtype: ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"`` (see
            :mod:`diffeat.storage.formats`).
    """

    def __init__(self, path: Path, head: Head, lock: WriterLock | None) -> None:
        self.path = path
        self.recipe = head.recipe
        self.recipe_hash = head.recipe_hash
        self.dtype = head.dtype
        self._lock = lock
        self._readers: OrderedDict[str, ShardReader] = OrderedDict()
        if lock is not None:
            with disk_errors(path):
                self._tidy()
        self._parts = {part.shard: part for part in map(read_part, _parts_of(path))}
        self._entries: list[list[Row]] | None = None
        self._lookup: dict[str, list[Row]] = {}

    # --- opening ---------------------------------------------------------------------------------

    @staticmethod
    def is_store(path: str | os.PathLike[str]) -> bool:
        """Whether a folder is a feature store."""
        return Path(path, HEAD_FILE).is_file()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        recipe: dict[str, Any],
        recipe_hash: str,
        dtype: str = "float32",
        weights: str = "",
    ) -> FeatureStore:
        """Make a new store in a folder that is new or empty.

        Raises:
            StoreError: The folder holds something, or cannot be written.
        """
        get_format(dtype)
        folder = Path(path)
        with disk_errors(folder):
            if folder.exists() and not folder.is_dir():
                raise StoreError(f"{folder} is a file. Choose another name for the store.")
            folder.mkdir(parents=True, exist_ok=True)
            lock = WriterLock(folder)
            if cls.is_store(folder):
                raise StoreError(f"{folder} is a feature store already. Use open or open_or_create.")
            strangers = [p.name for p in folder.iterdir() if not p.name.startswith(TEMPORARY)]
            if set(strangers) - {"shards", "index"}:
                raise StoreError(
                    f"{folder} is not a feature store and not empty (it holds {sorted(strangers)[0]!r}). "
                    "Choose a new or empty folder."
                )
            (folder / "shards").mkdir(exist_ok=True)
            (folder / "index").mkdir(exist_ok=True)
            head = Head(recipe, recipe_hash, dtype, weights)
            head.write(folder)
        return cls(folder, head, lock)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> FeatureStore:
        """Open a store to read.

        Raises:
            StoreError: Not a store, damaged, or of a newer format.
        """
        folder = Path(path)
        return cls(folder, Head.read(folder), None)

    @classmethod
    def of(cls, path: str | os.PathLike[str], source: Source[FeatureMap], dtype: str = "float32") -> FeatureStore:
        """Open the store of a source's features to go on writing, or make it; raises as :meth:`open_or_create`."""
        recipe = source.recipe
        return cls.open_or_create(path, recipe.content(), recipe.hash, dtype, source.fingerprint)

    @classmethod
    def open_or_create(
        cls,
        path: str | os.PathLike[str],
        recipe: dict[str, Any],
        recipe_hash: str,
        dtype: str = "float32",
        weights: str = "",
    ) -> FeatureStore:
        """Open a store to go on writing, or make it.

        ``weights`` is the fingerprint of the weights (``Extractor.fingerprint``), so that features of two models under
        one name never mix; empty where it is not known.

        Raises:
            StoreError: The store was made by another recipe, other weights or with another dtype (the differences are
                named), another process is writing to it, or it cannot be written.
        """
        get_format(dtype)
        folder = Path(path)
        if not cls.is_store(folder):
            return cls.create(folder, recipe, recipe_hash, dtype, weights)
        head = Head.read(folder)
        head.require(Head(recipe, recipe_hash, dtype, weights), folder)
        with disk_errors(folder):
            lock = WriterLock(folder)
        return cls(folder, head, lock)

    def close(self) -> None:
        """Let other processes write, and unmap the shards."""
        self._readers.clear()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- writing ---------------------------------------------------------------------------------

    def has_shard(self, shard_id: str) -> bool:
        """Whether a shard is complete."""
        return shard_id in self._parts

    def write_shard(self, shard_id: str, features: Sequence[FeatureMap], position: int = 0) -> None:
        """Store some pictures; when this returns they are on disk, and before that nothing of them is.

        Args:
            shard_id: Name of the shard: letters, digits, ``.``, ``_``, ``-``. A shard of that name is
                replaced.
            features: The pictures.
            position: Place of the shard in the order of iteration (equal places: by name).

        Raises:
            StoreError: The store is open to read only, or the disk is full or not writable. Complete shards
                stay.
            NonFiniteError: Values that are not finite, or not in the store's dtype (the activation is named).
        """
        self._must_write()
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", shard_id):
            raise InvalidValueError(f"A shard's name has letters, digits, '.', '_' and '-' only, got {shard_id!r}.")
        data, rows = pack(features, self.dtype, shard_id, position)
        sha256 = hashlib.sha256(data).hexdigest()
        part = Part(shard_id, position, len(data), sha256, self.recipe_hash, tuple(rows))
        staged: list[StagedFile] = []
        with disk_errors(self.path):
            try:
                staged.append(StagedFile(self._shard_file(shard_id), data))
                staged.append(StagedFile(self._part_file(shard_id), part.to_bytes()))
                if self._part_file(shard_id).exists():  # never an old index beside a new shard
                    self._part_file(shard_id).unlink()
                    sync_folder(self.path / "index")
                for file in staged:
                    file.commit()
            except BaseException:
                for file in staged:
                    file.discard()
                raise
        self._readers.pop(shard_id, None)
        self._parts[shard_id] = part
        self._entries = None

    def remove_shard(self, shard_id: str) -> None:
        """Forget a shard and its pictures.

        Raises:
            StoreError: The store is open to read only, or the disk is not writable.
            UnknownNameError: No such shard.
        """
        self._must_write()
        if shard_id not in self._parts:
            raise UnknownNameError(f"The store {self.path} has no shard {shard_id!r}.")
        with disk_errors(self.path):
            self._part_file(shard_id).unlink()  # first the index: without it the shard does not count
            sync_folder(self.path / "index")
            self._shard_file(shard_id).unlink()
        self._readers.pop(shard_id, None)
        del self._parts[shard_id]
        self._entries = None

    def _must_write(self) -> None:
        if self._lock is None:
            raise StoreError(f"The store {self.path} is open to read only. Use open_or_create to write.")

    def _tidy(self) -> None:
        """Remove what an interrupted run left: temporary files, and shards and parts without each other."""
        for folder in (self.path, self.path / "shards", self.path / "index"):
            folder.mkdir(exist_ok=True)
            for file in folder.glob(f"{TEMPORARY}*"):
                file.unlink()
        for file in _parts_of(self.path):
            shard = self._shard_file(file.stem)
            try:
                complete = shard.stat().st_size == read_part(file).size
            except (FileNotFoundError, StoreError):
                complete = False
            if not complete:
                file.unlink()
        for file in (self.path / "shards").glob("*.safetensors"):
            if not self._part_file(file.stem).exists():
                file.unlink()

    # --- reading ---------------------------------------------------------------------------------

    def keys(self) -> list[str]:
        """Digests of the pictures, in the order they were given in; a picture stored twice counts once."""
        return list(dict.fromkeys(rows[0].key for rows in self._all()))

    def names(self) -> list[str]:
        """Names of the pictures, in the order they were given in."""
        return list(dict.fromkeys(rows[0].image for rows in self._all()))

    def entries(self) -> list[tuple[str, str, str]]:
        """Shard, name and digest of every picture, in the order they were given in."""
        return [(rows[0].shard, rows[0].image, rows[0].key) for rows in self._all()]

    def activations(self) -> list[str]:
        """Names of all activations."""
        return list(dict.fromkeys(row.activation for rows in self._all() for row in rows))

    def __len__(self) -> int:
        return len(self._all())

    def __contains__(self, key: object) -> bool:
        self._all()
        return key in self._lookup

    def __iter__(self) -> Iterator[FeatureMap]:
        for rows in list(self._all()):
            yield self._read(rows, None, None)

    def load(self, key: str, activations: Sequence[str] | None = None, window: Window | None = None) -> FeatureMap:
        """Read one picture; only what is asked for is read from disk.

        Args:
            key: Digest or name.
            activations: Names of the wanted maps; all if not given.
            window: (top, left, height, width) in cells of the wanted maps. The frame stays that of the whole
                picture; ``provenance["window"]`` tells the cells.

        Returns:
            Maps in the store's dtype; float32 for int8.

        Raises:
            UnknownNameError: No such picture or activation.
            InvalidValueError: The window is not inside a map.
            StoreError: The shard is damaged.
        """
        self._all()
        if key not in self._lookup:
            near = did_you_mean(key, self.names()[:5000])
            raise UnknownNameError(f"The store {self.path} has no picture {key!r}. {near}")
        return self._read(self._lookup[key], activations, window)

    def verify(self) -> VerifyReport:
        """Read everything again: sizes, hashes, shapes, ranges, finite values, leftovers."""
        report = VerifyReport()
        for part in in_order(list(self._parts.values())):
            check_shard(self._shard_file(part.shard), part, self.recipe_hash, report)
        for folder in (self.path, self.path / "shards", self.path / "index"):
            report.problems += [f"{f.name}: left by an interrupted run" for f in folder.glob(f"{TEMPORARY}*")]
        for file in sorted((self.path / "shards").glob("[!.]*.safetensors")):
            if file.stem not in self._parts:
                report.problems.append(f"{file.name}: not in the index, left by an interrupted run")
        return report

    def listing(self) -> str:
        """Tables of the activations and the pictures, with sizes."""
        return listing(self.path, self.recipe_hash, self.dtype, in_order(list(self._parts.values())))

    def _read(self, rows: list[Row], wanted: Sequence[str] | None, window: Window | None) -> FeatureMap:
        by_name = {row.activation: row for row in rows}
        for name in wanted or ():
            if name not in by_name:
                near = did_you_mean(name, by_name)
                raise UnknownNameError(f"{rows[0].image} has no activation {name!r}. {near}")
        reader = self._reader(rows[0].shard)
        maps = {name: reader.read(by_name[name], window) for name in (wanted or by_name)}
        provenance = json.loads(rows[0].provenance)
        if window is not None:
            provenance["window"] = list(window)
        return FeatureMap(
            activations=maps,
            frame=Frame.from_dict(json.loads(rows[0].frame)),
            image=rows[0].image,
            digest=rows[0].key,
            provenance=provenance,
        )

    def _reader(self, shard: str) -> ShardReader:
        if shard not in self._readers:
            self._readers[shard] = ShardReader(self._shard_file(shard))
            if len(self._readers) > _OPEN_SHARDS:
                self._readers.popitem(last=False)
        self._readers.move_to_end(shard)
        return self._readers[shard]

    def _all(self) -> list[list[Row]]:
        """The rows of every picture, in order; also fills the lookup by name and by digest (names go first)."""
        if self._entries is None:
            self._entries = self._gather()
            backwards = self._entries[::-1]
            self._lookup = {rows[0].key: rows for rows in backwards} | {rows[0].image: rows for rows in backwards}
        return self._entries

    def _gather(self) -> list[list[Row]]:
        entries: dict[tuple[str, int], list[Row]] = {}
        for part in in_order(list(self._parts.values())):
            for row in part.rows:
                entries.setdefault((row.shard, row.row), []).append(row)
        return list(entries.values())

    def _shard_file(self, shard: str) -> Path:
        return self.path / "shards" / f"{shard}.safetensors"

    def _part_file(self, shard: str) -> Path:
        return self.path / "index" / f"{shard}.parquet"


def _parts_of(folder: Path) -> list[Path]:
    return sorted((folder / "index").glob("[!.]*.parquet"))
