"""The files of a store by their names, which tell what they must hold.

::

    store.json                              what made the features, and the epoch that counts
    shards/<sha256>.safetensors             the maps of some pictures
    index/<epoch>-<kind>-<sha256>.parquet   their rows

A shard and a file of the index are named by the SHA-256 of their bytes: they are never changed, a damaged one is told
by its name, and writing the same once more changes nothing. An epoch ends when a store is compacted; the files of other
epochs do not count. Kinds of the index: ``new`` is the part of one shard; ``old`` is likewise, written by compacting,
and all of these together are once more in ``all``, the one file that is read where it is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple, Self

from diffeat.errors import StoreError
from diffeat.storage.atomic import (
    DamagedError,
    StagedFile,
    disk_errors,
    is_regular,
    is_temporary,
    opened,
    sync_folder,
)

HEAD_FILE = "store.json"
_MOST_BYTES = 1 << 30  # of a file of the index
_SHARD = re.compile(r"([0-9a-f]{64})\.safetensors")
_INDEX = re.compile(r"(\d{1,9})-(new|old|all)-([0-9a-f]{64})\.parquet")


class IndexName(NamedTuple):
    """The name of a file of the index."""

    epoch: int
    kind: str
    sha256: str

    @classmethod
    def of(cls, epoch: int, kind: str, data: bytes) -> Self:
        """The name of what a file holds."""
        return cls(epoch, kind, hashlib.sha256(data).hexdigest())

    def within(self, folder: Path) -> Path:
        """Where it lies in a store's folder."""
        return folder / "index" / f"{self.epoch}-{self.kind}-{self.sha256}.parquet"


def shard_file(folder: Path, shard: str) -> Path:
    """Where a shard lies in a store's folder."""
    return folder / "shards" / f"{shard}.safetensors"


def index_names(folder: Path) -> list[IndexName]:
    """The files of the index, of every epoch, in the order of their names.

    Raises:
        StoreError: The folder cannot be listed.
    """
    matches = (_INDEX.fullmatch(file.name) for file in listed(folder / "index"))
    return sorted(IndexName(int(m[1]), m[2], m[3]) for m in matches if m)


def listed(folder: Path) -> list[Path]:
    """What a folder holds, sorted; nothing where there is none.

    Raises:
        StoreError: It cannot be listed.
    """
    try:
        return sorted(Path(folder, name) for name in os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder} cannot be read ({error.strerror}).") from error


def leftovers(folder: Path, epoch: int, shards: Container[str]) -> Iterator[Path]:
    """Files that interrupted runs left: only regular ones, with names that nothing else gives, that do not count.

    Args:
        epoch: The one that counts.
        shards: Those that are in the index.
    """
    yield from temporaries(folder)
    for name in index_names(folder):
        if name.epoch != epoch and is_regular(file := name.within(folder)):
            yield file
    for file in listed(folder / "shards"):
        match = _SHARD.fullmatch(file.name)
        if match and match[1] not in shards and is_regular(file):
            yield file


def temporaries(folder: Path) -> Iterator[Path]:
    """Files of writes that were never finished."""
    for place in (folder, folder / "shards", folder / "index"):
        yield from (file for file in listed(place) if is_temporary(file) and is_regular(file))


def whole(file: Path, sha256: str, size: int | None = None) -> bytes:
    """What a file holds.

    Args:
        size: What it must be, where that is known: a file of another size is not read.

    Raises:
        DamagedError: It is missing, or not what its name tells.
        StoreError: It cannot be read.
    """
    with _of_size(file, size) as reader:
        data = reader.read()
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DamagedError(f"{file} has changed since it was written.")
        return data


@contextmanager
def _of_size(file: Path, size: int | None) -> Iterator[BufferedReader]:
    with opened(file) as reader:
        here = os.fstat(reader.fileno()).st_size
        if here != size if size is not None else here > _MOST_BYTES:
            raise DamagedError(f"{file} has changed since it was written: it has {here} bytes.")
        yield reader


def check(file: Path, sha256: str, size: int | None = None) -> int:
    """The size of a file that is what its name tells; arguments and errors as of :func:`whole`, which holds it."""
    with _of_size(file, size) as reader:
        if hashlib.file_digest(reader, "sha256").hexdigest() != sha256:
            raise DamagedError(f"{file} has changed since it was written.")
        return reader.tell()


def place(folder: Path, *files: tuple[Path, bytes]) -> None:
    """Put files of a store in their places, one after the other, each complete or absent.

    A file that is there is left as it is where it is whole; else it is mended: its name tells that it held these bytes.

    Raises:
        StoreError: The disk is full or not writable, or something else has a file's name.
    """
    staged: list[StagedFile] = []
    with disk_errors(folder):
        try:
            for file, data in files:
                if file.parent.is_symlink():
                    raise StoreError(f"{file.parent} is a link; nothing is written through it. Put a folder there.")
                if not file.parent.is_dir():
                    file.parent.mkdir()
                    sync_folder(folder)
                if not _is_whole(file, data):
                    staged.append(StagedFile(file, data))
            for part in staged:
                part.commit()
        except BaseException:
            for part in staged:
                part.discard()
            raise


def _is_whole(file: Path, data: bytes) -> bool:
    if not os.path.lexists(file):
        return False
    if not is_regular(file):
        raise StoreError(f"{file} is not a regular file; it is not replaced. Move it out of the store.")
    try:
        check(file, hashlib.sha256(data).hexdigest(), len(data))
    except DamagedError:
        return False
    return True
