"""Folders and files of stores on object stores, by URL: ``s3://bucket/features``, ``gs://…``, ``memory://…``.

An object appears whole or not at all when it is written, which is what renaming gives on a disk. There are no locks,
and so nothing is ever removed there.
"""

from __future__ import annotations

import errno
import os
import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, TypeVar, cast

from diffeat.errors import StoreError, clipped, did_you_mean, printable

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
#: Protocols whose folders are but parts of names: to make one would make a bucket that nobody asked for.
_BUCKETS = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "obs"))
_CREDENTIALS = re.compile("credential|token|access key|unauthor", re.IGNORECASE)


@dataclass(frozen=True)
class Url:
    """A folder or a file by URL; what goes wrong is an OSError with its reason, as on a disk."""

    system: AbstractFileSystem
    path: str

    def __str__(self) -> str:
        return self.system.unstrip_protocol(self.path)

    def __truediv__(self, name: str) -> Url:
        return Url(self.system, f"{self.path.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    @property
    def parent(self) -> Url:
        return Url(self.system, posixpath.dirname(self.path))

    def is_file(self) -> bool:
        return self._ask(lambda: self.system.isfile(self.path))

    def is_dir(self) -> bool:
        return self._ask(lambda: self.system.isdir(self.path))

    def exists(self) -> bool:
        return self._ask(lambda: self.system.exists(self.path))

    def open(self) -> BinaryIO:
        return cast(BinaryIO, self._ask(lambda: self.system.open(self.path, "rb")))

    def size(self) -> int:
        return self._ask(lambda: int(self.system.info(self.path)["size"]))

    def range(self, start: int, end: int) -> bytes:
        """Bytes from ``start`` up to ``end``."""
        return self._ask(lambda: cast(bytes, self.system.cat_file(self.path, start=start, end=end)))

    def listed(self) -> dict[str, int]:
        """Names of the files in a folder, and their bytes; nothing where there is no such folder."""

        def ask() -> dict[str, int]:
            self.system.invalidate_cache()
            try:
                found = self.system.ls(self.path, detail=True)
            except FileNotFoundError:
                return {}
            return {posixpath.basename(f["name"].rstrip("/")): int(f["size"] or 0) for f in found}

        return self._ask(ask)

    def write(self, chunks: Iterable[bytes | memoryview], *, new: bool = False) -> None:
        """Put an object in its place; ``new``: unless there is one, which is a FileExistsError."""
        data = b"".join(chunks)
        protocols = self.system.protocol
        if _BUCKETS.isdisjoint([protocols] if isinstance(protocols, str) else protocols):
            self._ask(lambda: self.system.makedirs(posixpath.dirname(self.path), exist_ok=True))
        self._ask(lambda: self.system.pipe_file(self.path, data, mode="create" if new else "overwrite"))

    def _ask(self, act: Callable[[], T]) -> T:
        try:
            return act()
        except OSError as error:
            reason = error.strerror or str(error) or type(error).__name__
            code = error.errno or next((c for kind, c in _CODES.items() if isinstance(error, kind)), errno.EIO)
        except Exception as error:  # whatever a client of an object store runs into
            reason, code = f"{type(error).__name__}: {error}", errno.EIO
        if _CREDENTIALS.search(reason):
            code = errno.EACCES
            reason += "; set the credentials that this protocol's client reads, for s3 AWS_ACCESS_KEY_ID and "
            reason += "AWS_SECRET_ACCESS_KEY or a profile"
        raise OSError(code, clipped(printable(reason), 300), str(self)) from None


_CODES = {FileNotFoundError: errno.ENOENT, FileExistsError: errno.EEXIST, PermissionError: errno.EACCES}
#: A folder or a file of a store.
Place: TypeAlias = Path | Url
#: What names one: a path, or a URL.
PlaceLike: TypeAlias = str | os.PathLike[str] | Url


def place_of(path: PlaceLike) -> Place:
    """The place that a path or a URL stands for.

    Raises:
        StoreError: The protocol is unknown, or its client is not installed.

    Example:
        >>> print(place_of("memory://features"))
        memory:///features
    """
    if isinstance(path, Url):
        return path
    match = _URL.fullmatch(os.fspath(path))
    if match is None:
        return Path(path)
    protocol, rest = match.groups()  # a Path has lost one of the two slashes
    if protocol == "file":
        return Path(f"/{rest}")
    import fsspec

    if protocol not in fsspec.available_protocols():
        raise StoreError(f"There is no protocol {protocol!r}. {did_you_mean(protocol, fsspec.available_protocols())}")
    try:
        return Url(*fsspec.core.url_to_fs(f"{protocol}://{rest}"))
    except (ImportError, ValueError) as error:
        raise StoreError(f"{protocol}:// cannot be used here: {error}") from error
