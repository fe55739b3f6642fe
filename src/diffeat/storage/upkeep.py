"""Acts on whole stores, never done without being asked: :func:`compact` and :func:`merge`.

Compacting writes everything that the next epoch of a store needs beside what counts now. One atomic rename, of
``store.json``, changes the epoch; only then is what the old one needed removed. A run that dies before the rename has
changed nothing that is read, one that dies after it leaves files that the next compacting removes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from diffeat.errors import InvalidValueError, StoreError
from diffeat.storage.atomic import disk_errors
from diffeat.storage.index import Index
from diffeat.storage.layout import IndexName, leftovers, place, shard_file, whole
from diffeat.storage.pooling import remove_stale
from diffeat.storage.rows import Row, schema, table_of, to_parquet
from diffeat.storage.settle import sum_up
from diffeat.storage.shard import Sealed, ShardReader, seal
from diffeat.storage.store import FeatureStore
from diffeat.storage.url import Place, PlaceLike, Url, place_of

if TYPE_CHECKING:
    import pyarrow as pa

_PART_ROWS = 1 << 16  # of a part that compacting writes


@dataclass(frozen=True)
class Compacted:
    """What compacting did: files removed, and their bytes."""

    pictures: int
    shards: int
    removed: int
    size: int


def compact(path: PlaceLike, shard_size: int = 16) -> Compacted:
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
    folder = place_of(path)
    if isinstance(folder, Url):
        raise StoreError(
            f"{folder} cannot be compacted: nothing there tells whether others write to it. Merge it into a new store, "
            "which takes what counts: diffeat store merge."
        )
    with FeatureStore.open_to_write(folder) as store:
        index = store.index()
        _remove(folder, store.head.epoch, index.shards)
        head = replace(store.head, epoch=store.head.epoch + 1, parts=0)
        fresh = Index()
        for table in _parts(store, index, shard_size):
            data = to_parquet(table, head.recipe_hash)
            name = IndexName.of(head.epoch, "old", [data])
            place(folder, (name.within(folder), [data]))
            fresh.add(table, name)
        if fresh.late:
            sum_up(folder, head, fresh, alone=False)
        with disk_errors(folder):
            replace(head, parts=fresh.late).write(folder)
        shards = fresh.shards
        removed, size = _remove(folder, head.epoch, shards)
        with disk_errors(folder):
            pooled, bytes_pooled = remove_stale(folder, shards)
        store.refresh()
        store.head = replace(head, parts=fresh.late)
        return Compacted(len(index), len(shards), removed + pooled, size + bytes_pooled)


def _parts(store: FeatureStore, index: Index, shard_size: int) -> Iterator[pa.Table]:
    """The rows of the next epoch, as many as a part shall hold; shards that are not right are written anew."""
    import numpy as np
    import pyarrow as pa

    table, counts = index.table()
    ends = np.cumsum(counts)
    shards, rows = index.column("shard"), index.column("row")
    waiting: list[pa.Table] = []
    for position, (start, end) in enumerate(_regrouped(shards, rows, index.shards, shard_size)):
        maps = table.slice(ends[start] - counts[start], ends[end - 1] - ends[start] + counts[start])
        if not _is_right(shards[start:end], rows[start:end], index.shards):
            maps = table_of(_rewrite(store, [Row(**row) for row in maps.to_pylist()]))
        for name, value in (("position", position), ("generation", 0)):
            column = pa.array(np.full(maps.num_rows, value, np.int64))
            maps = maps.set_column(maps.column_names.index(name), name, column)
        waiting.append(maps.cast(schema()))
        if sum(maps.num_rows for maps in waiting) >= _PART_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _is_right(shards: Sequence[str], rows: Sequence[int], held: dict[str, int]) -> bool:
    """Whether pictures are those of one shard, in its order."""
    return len(set(shards)) == 1 and held[shards[0]] == len(shards) and list(rows) == list(range(len(shards)))


def _regrouped(
    shards: Sequence[str], rows: Sequence[int], held: dict[str, int], shard_size: int
) -> Iterator[tuple[int, int]]:
    """The pictures of every shard to be, from … to; full shards that are right are left alone."""
    waiting = start = 0
    while start < len(shards):
        end = start + held[shards[start]]
        if end - start >= shard_size and _is_right(shards[start:end], rows[start:end], held):
            if waiting < start:
                yield waiting, start
            yield start, end
            waiting = start = end
        else:
            start += 1
            if start - waiting == shard_size:
                yield waiting, start
                waiting = start
    if waiting < start:
        yield waiting, start


def _rewrite(store: FeatureStore, rows: Sequence[Row]) -> Sequence[Row]:
    """Write pictures into a shard of their own, byte for byte as they are stored."""
    readers: dict[str, ShardReader] = {}
    maps = []
    for _, picture in groupby(rows, lambda row: row.image):
        maps.append([])
        for row in picture:
            if row.shard not in readers:
                readers[row.shard] = ShardReader(shard_file(store.path, row.shard), row.size)
            maps[-1].append((row, readers[row.shard].stored(row)))
    sealed = seal(maps, store.dtype, 0)
    place(store.path, (shard_file(store.path, sealed.shard), sealed.chunks))
    return sealed.rows


def _remove(folder: Path, epoch: int, shards: dict[str, int]) -> tuple[int, int]:
    """Remove what does not count; how many files, and their bytes."""
    with disk_errors(folder):
        files = list(leftovers(folder, epoch, shards))
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.unlink()
        return len(files), size


def merge(paths: Sequence[PlaceLike], out: PlaceLike) -> FeatureStore:
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
            shards, there = index.column("shard"), target.whole(index.names())
            first = {shard: -number for number, shard in enumerate(reversed(shards))}
            in_order = sorted(range(len(shards)), key=lambda number: first[shards[number]])
            for shard, numbers in groupby(in_order, shards.__getitem__):
                pictures = [index.at(number) for number in numbers]
                fresh = [
                    replace(row, position=position, generation=0)
                    for rows in pictures
                    for row in rows
                    if row.image not in there
                ]
                if fresh:
                    file = shard_file(store.path, shard)
                    target.write_sealed(Sealed(shard, [whole(file, shard, pictures[0][0].size)], tuple(fresh)))
                position += 1
    return FeatureStore.open(out)


def _refuse_conflicts(stores: Sequence[FeatureStore]) -> None:
    taken: dict[str, tuple[tuple[str, str], Place]] = {}
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
