"""The files of a store by their names, which tell what they must hold.

::

    store.json                              what made the features, and the epoch that counts
    checked                                 empty; what is older than it was whole when it was made
    shards/<sha256>.safetensors             the maps of some pictures
    index/<epoch>-<kind>-<sha256>.parquet   their rows: the parts
    index/<epoch>-all-<sha256>.arrow        the rows of many parts once more, sorted
    pooled/<sha256>.arrow                   pooled features (:mod:`diffeat.storage.similar`); they may be missing

A shard and a file of the index are named by the SHA-256 of their bytes: they are never changed, a damaged one is told
by its name, and writing the same once more changes nothing. An epoch ends when a store is compacted; the files of other
epochs do not count. Kinds of parts: ``new`` is that of one shard, ``old`` those of several, written by compacting. A
summary (``all``, see :mod:`diffeat.storage.summary`) is made when there are many parts, and read in their stead while
it is whole; the parts stay.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from diffeat.errors import StoreError
from diffeat.storage.atomic import DamagedError, StagedFile, disk_errors, is_regular, is_temporary, opened, sync_folder
from diffeat.storage.url import Place, Url

HEAD_FILE = "store.json"
#: The folder of what :mod:`diffeat.storage.similar` keeps; it never counts.
POOLED = "pooled"
_MOST_BYTES = 1 << 30  # of a part
_SHARD = re.compile(r"([0-9a-f]{64})\.safetensors")
_INDEX = re.compile(r"(\d{1,9})-(?:(new|old)-([0-9a-f]{64})\.parquet|(all)-([0-9a-f]{64})\.arrow)")

#: The bytes of a file, in pieces.
Chunks = Sequence[bytes | memoryview]


class IndexName(NamedTuple):
    """The name of a file of the index."""

    epoch: int
    kind: str
    sha256: str

    @classmethod
    def of(cls, epoch: int, kind: str, chunks: Chunks) -> Self:
        return cls(epoch, kind, sha256_of(chunks))

    def __str__(self) -> str:
        return f"{self.epoch}-{self.kind}-{self.sha256}.{'arrow' if self.kind == 'all' else 'parquet'}"

    def within(self, folder: Place) -> Place:
        return folder / "index" / str(self)


def sha256_of(chunks: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def shard_file(folder: Place, shard: str) -> Place:
    return folder / "shards" / f"{shard}.safetensors"


def index_names(folder: Place) -> list[IndexName]:
    """The files of the index, of every epoch, in the order of their names."""
    matches = map(_INDEX.fullmatch, listed(folder / "index"))
    return sorted(IndexName(int(m[1]), m[2] or m[4], m[3] or m[5]) for m in matches if m)


def listed(folder: Place) -> list[str]:
    """Names of what a folder holds, sorted; nothing where there is none."""
    try:
        return sorted(folder.listed() if isinstance(folder, Url) else os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"{folder} cannot be read ({error.strerror}).") from error


def leftovers(folder: Path, epoch: int, shards: Container[str]) -> Iterator[Path]:
    """Files that interrupted runs left: only regular ones, with names that nothing else gives, that do not count."""
    yield from temporaries(folder)
    for name in index_names(folder):
        if name.epoch != epoch and is_regular(file := folder / "index" / str(name)):
            yield file
    for name in listed(folder / "shards"):
        match = _SHARD.fullmatch(name)
        if match and match[1] not in shards and is_regular(file := folder / "shards" / name):
            yield file


def temporaries(folder: Path) -> Iterator[Path]:
    """Files of writes that were never finished."""
    places = (folder, folder / "shards", folder / "index", folder / POOLED)
    for place in (p for p in places if p.is_dir() or p.name != POOLED):
        yield from (place / name for name in listed(place) if is_temporary(name) and is_regular(place / name))


def whole(file: Place, sha256: str, size: int | None = None) -> bytes:
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
def _of_size(file: Place, size: int | None, most: int | None = _MOST_BYTES) -> Iterator[BinaryIO]:
    with opened(file) as reader:
        here = reader.seek(0, os.SEEK_END)
        reader.seek(0)
        if here != size if size is not None else here > (most or here):
            raise DamagedError(f"{file} has changed since it was written: it has {here} bytes.")
        yield reader


def check(file: Place, sha256: str, size: int | None = None) -> int:
    """The size of a file that is what its name tells; arguments and errors as of :func:`whole`, which holds it."""
    with _of_size(file, size, None) as reader:
        if sha256_of(iter(lambda: reader.read(1 << 20), b"")) != sha256:
            raise DamagedError(f"{file} has changed since it was written.")
        return reader.tell()


def place(folder: Place, *files: tuple[Place, Chunks]) -> None:
    """Put files of a store in their places, one after the other, each complete or absent.

    A file that is there is left as it is where it is whole; else it is mended: its name tells that it held these bytes.
    """
    staged: list[StagedFile] = []
    with disk_errors(folder):
        try:
            for file, chunks in files:
                if isinstance(file, Path):
                    ready(file.parent)
                if not _is_whole(file, chunks):
                    staged.append(StagedFile(file, chunks))
            for part in staged:
                part.commit()
        except BaseException:
            for part in staged:
                part.discard()
            raise


def ready(folder: Path) -> None:
    """Make a folder of a store where it is missing."""
    if folder.is_symlink():
        raise StoreError(f"{folder} is a link; nothing is written through it. Put a folder there.")
    if not folder.is_dir():
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _is_whole(file: Place, chunks: Chunks) -> bool:
    if isinstance(file, Url):
        return file.exists() and file.size() == sum(map(len, chunks))
    if not os.path.lexists(file):
        return False
    if not is_regular(file):
        raise StoreError(f"{file} is not a regular file; it is not replaced. Move it out of the store.")
    try:
        check(file, sha256_of(chunks))
    except DamagedError:
        return False
    return True
