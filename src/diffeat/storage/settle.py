"""What a writer does for the next one: sums the index up, mends it, and marks what is whole.

``checked`` is an empty file whose time tells that every shard and part older than it was whole when it was made. One
that a later change touched is younger, and is read again before it is trusted; so a run that goes on with a store reads
none of what it holds. Only the times of one folder are compared with each other: no clock matters.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from diffeat.errors import StoreError
from diffeat.storage.atomic import DamagedError, StagedFile, is_regular
from diffeat.storage.head import Head
from diffeat.storage.index import MANY, Index
from diffeat.storage.layout import IndexName, check, index_names, place, shard_file
from diffeat.storage.rows import to_parquet
from diffeat.storage.summary import part_of, write_summary
from diffeat.storage.url import Place, Url

CHECKED_FILE = "checked"
_SETTLED = 2_000_000_000  # nanoseconds by which times differ on any file system


def trusted_before(folder: Place) -> int:
    """Files of an earlier time are whole, in nanoseconds; 0 where nothing is known."""
    if isinstance(folder, Url) or not is_regular(folder / CHECKED_FILE):
        return 0
    mark = os.stat(folder / CHECKED_FILE)
    return 0 if mark.st_size else mark.st_mtime_ns - _SETTLED


def sound_shards(folder: Place, shards: dict[str, int]) -> set[str]:
    """Those of some shards, by name to bytes, that are what they were when they were written; reads the young ones.

    In an object store the size is looked at alone: nothing changes in part there.
    """
    if isinstance(folder, Url):
        there = (folder / "shards").listed()
        return {shard for shard, size in shards.items() if there.get(f"{shard}.safetensors") == size}
    before, sound = trusted_before(folder), set()
    for shard, size in shards.items():
        file = shard_file(folder, shard)
        with suppress(DamagedError):
            if not (is_regular(file) and _older(file, before, size)):
                check(file, shard, size)
            sound.add(shard)
    return sound


def _older(file: Place, before: int, size: int | None = None) -> bool:
    found = os.stat(str(file))
    return found.st_mtime_ns < before and size in (None, found.st_size)


def due(index: Index, *, running: bool) -> bool:
    """Whether there are so many parts that they are to be summed up; ``running``: more may come at once."""
    parts = index.late + len(index.covered)
    if index.damaged or not index.late:
        return bool(index.spared) and not index.damaged and not index.late and parts >= MANY
    return index.late >= max(4 * MANY, parts // 16) if running else parts >= MANY


def sum_up(folder: Place, head: Head, index: Index, *, alone: bool) -> None:
    """Write a summary of all parts; who writes alone removes those that it replaces."""
    name = write_summary(folder, head.epoch, index.merged(head.recipe_hash))
    if alone and isinstance(folder, Path):
        for other in index_names(folder):
            if other.epoch == head.epoch and other.kind == "all" and other != name:
                with suppress(OSError):
                    os.unlink(folder / "index" / str(other))


def settle(folder: Path, head: Head, index: Index, sound: Iterable[str]) -> None:
    """Mend parts that the summary stands for, and mark the store as checked if all shards are sound or trusted."""
    before, sound = trusted_before(folder), set(sound)
    if index.damaged or not _mended(folder, head, index, before):
        return
    shards = [shard for shard in index.shards if shard not in sound]
    with suppress(OSError):  # one is missing: not all is whole
        if index.shards and all(_older(shard_file(folder, shard), before) for shard in shards):
            StagedFile(folder / CHECKED_FILE, b"").commit()


def _mended(folder: Path, head: Head, index: Index, before: int) -> bool:
    """Make lost parts again from the summary; whether all are whole now."""
    if index.summary is None:
        return True
    names, batch = index.summary.batch["part"].dictionary.to_pylist(), index.summary.batch
    old, whole = index.summary.parts(old=True), True
    for code, part in enumerate(names):
        name = IndexName(head.epoch, "old" if part in old else "new", part)
        file = name.within(folder)
        with suppress(StoreError, OSError):
            if is_regular(file) and _older(file, before):
                continue
            check(file, part)
            continue
        data = to_parquet(part_of(batch, code), head.recipe_hash)
        if IndexName.of(head.epoch, name.kind, [data]) == name and (is_regular(file) or not os.path.lexists(str(file))):
            place(folder, (file, [data]))
        else:  # another release wrote it
            whole = False
    return whole
