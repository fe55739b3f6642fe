"""Acts on whole stores, never done without being asked: :func:`compact` and :func:`merge`.

Compacting writes everything that the next epoch of a store needs beside what counts now. One atomic rename, of
``store.json``, changes the epoch; only then is what the old one needed removed. A run that dies before the rename has
changed nothing that is read, one that dies after it leaves files that the next compacting removes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffeat.errors import InvalidValueError, StoreError
from diffeat.storage.atomic import disk_errors
from diffeat.storage.index import Index, Row, table_of, to_parquet
from diffeat.storage.layout import IndexName, leftovers, place, shard_file, whole
from diffeat.storage.shard import Sealed, ShardReader, seal
from diffeat.storage.store import FeatureStore

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Compacted:
    """What compacting did: files removed, and their bytes."""

    pictures: int
    shards: int
    removed: int
    size: int


def compact(path: PathLike, shard_size: int = 16) -> Compacted:
    """Give back the space of replaced pictures, join small shards, and write the index as one file.

    Pictures, their features and their order stay what they are. Readers that opened the store before must open it anew.

    Args:
        path: A store's folder.
        shard_size: Pictures per shard; fuller ones are left as they are.

    Raises:
        StoreError: Another run is writing, something is damaged or cannot be read (nothing is removed then), or the
            disk is full.
    """
    if shard_size < 1:
        raise InvalidValueError(f"A shard holds one picture or more, not {shard_size}.")
    with FeatureStore.open_to_write(path) as store:
        index, folder = store.index(), store.path
        _remove(folder, store.head.epoch, index.shards)
        head = replace(store.head, epoch=store.head.epoch + 1, parts=0)
        tables = []
        for position, pictures in enumerate(_regrouped(index, shard_size)):
            rows = [row for name in pictures for row in index.rows(name)]
            if len({row.shard for row in rows}) > 1 or index.shards[rows[0].shard] != len(pictures):
                rows = _rewrite(store, index, pictures)
            tables.append(table_of(replace(row, position=position, generation=0) for row in rows))
            data = to_parquet(tables[-1], head.recipe_hash)
            place(folder, (IndexName.of(head.epoch, "old", data).within(folder), data))
        if tables:
            import pyarrow as pa

            data = to_parquet(pa.concat_tables(tables), head.recipe_hash)
            place(folder, (IndexName.of(head.epoch, "all", data).within(folder), data))
        with disk_errors(folder):
            replace(head, parts=len(tables)).write(folder)
        shards = Index.read(folder, head).shards
        removed, size = _remove(folder, head.epoch, shards)
        return Compacted(len(index.pictures), len(shards), removed, size)


def _regrouped(index: Index, shard_size: int) -> Iterator[list[str]]:
    """The pictures of every shard to be, in the order of the pictures; full shards that are right are left alone."""
    names, shards, rows = list(index.pictures), index.column("shard"), index.column("row")
    waiting: list[str] = []
    start = 0
    while start < len(names):
        count = index.shards[shards[start]]
        here = slice(start, start + count)
        if count >= shard_size and set(shards[here]) == {shards[start]} and rows[here] == list(range(count)):
            if waiting:
                yield waiting
            waiting = []
            yield names[here]
            start += count
        else:
            waiting.append(names[start])
            start += 1
            if len(waiting) == shard_size:
                yield waiting
                waiting = []
    if waiting:
        yield waiting


def _rewrite(store: FeatureStore, index: Index, pictures: Sequence[str]) -> Sequence[Row]:
    """Write pictures into a shard of their own, byte for byte as they are stored."""
    readers: dict[str, ShardReader] = {}
    maps = []
    for name in pictures:
        rows = index.rows(name)
        shard = rows[0].shard
        reader = readers[shard] = readers.get(shard) or ShardReader(shard_file(store.path, shard))
        maps.append([(row, reader.stored(row)) for row in rows])
    sealed = seal(maps, store.dtype, 0)
    place(store.path, (shard_file(store.path, sealed.shard), sealed.data))
    return sealed.rows


def _remove(folder: Path, epoch: int, shards: dict[str, int]) -> tuple[int, int]:
    """Remove what does not count; how many files, and their bytes."""
    with disk_errors(folder):
        files = list(leftovers(folder, epoch, shards))
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink()
        return len(files), size


def merge(paths: Sequence[PathLike], out: PathLike) -> FeatureStore:
    """Copy the pictures of several stores of one recipe into one, and leave the others as they are.

    A run that was stopped is gone on with by calling it again.

    Args:
        paths: Folders of stores.
        out: Folder of the store that takes them all; made, or gone on with.

    Returns:
        That store, open to read.

    Raises:
        StoreError: The stores are of different recipes, models or dtypes, a name stands for different pictures in them
            (nothing is copied then), or something is damaged or cannot be read or written.
    """
    stores = [FeatureStore.open(path) for path in paths]
    if not stores:
        raise InvalidValueError("There are no stores to merge.")
    head = replace(stores[0].head, weights=next((s.head.weights for s in stores if s.head.weights), ""))
    for store in stores:
        if differences := store.head.differences(head):
            raise StoreError(f"{store.path} and {stores[0].path} cannot be merged: {'; '.join(differences)}.")
    with FeatureStore.open_or_create(out, head.recipe, head.recipe_hash, head.dtype, head.weights) as target:
        _refuse_conflicts([target, *stores])
        position = 0
        for store in stores:
            index = store.index()
            by_shard: dict[str, list[Row]] = {}
            for name in index.pictures:
                for row in index.rows(name):
                    by_shard.setdefault(row.shard, []).append(row)
            for shard, rows in by_shard.items():
                fresh = [
                    replace(row, position=position, generation=0)
                    for row in rows
                    if row.image not in target.index().pictures
                ]
                if fresh:
                    target.write_sealed(
                        Sealed(shard, whole(shard_file(store.path, shard), shard, rows[0].size), tuple(fresh))
                    )
                position += 1
    return FeatureStore.open(out)


def _refuse_conflicts(stores: Sequence[FeatureStore]) -> None:
    taken: dict[str, tuple[tuple[str, str], Path]] = {}
    conflicts = []
    for store in stores:
        store.index()  # nothing is merged while rows are lost
        for name, identity in store.identities().items():
            other, where = taken.setdefault(name, (identity, store.path))
            if other != identity:
                what = f"texts {other[1]!r} and {identity[1]!r}" if other[0] == identity[0] else "contents"
                conflicts.append(f"{name} (other {what} in {where} and {store.path})")
    if conflicts:
        more = f", and {len(conflicts) - 3} more" if len(conflicts) > 3 else ""
        raise StoreError(
            f"{len(conflicts)} names stand for different pictures, so nothing was merged: {', '.join(conflicts[:3])}"
            f"{more}. Extract them under other names, or one of the two again."
        )
