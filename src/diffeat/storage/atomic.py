"""Files that are complete or absent, the right to write, and the disk's errors in plain words."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from diffeat.errors import StoreError
from diffeat.files import open_regular
from diffeat.storage.url import Place, Url

_HOST = re.sub(r"\W", "", socket.gethostname())[:32] or "host"
_TEMPORARY = re.compile(r"\.tmp-.+-\w+-\d+-[0-9a-f]{8}")


#: How often the right to write is asked for by who shares it, and the seconds between.
_TRIES, _PAUSE = 100, 0.05


class DamagedError(StoreError):
    """A file of a store that no longer holds what was written."""


class StagedFile:
    """Bytes on disk under a temporary name of their own, flushed, waiting to take their final name.

    Of an object store they wait in memory: an object appears whole, or not at all.

    Args:
        data: The bytes, or pieces of them, which must stay what they are until :meth:`commit`.
        new: Whether there must be no file of that name.
    """

    def __init__(self, target: Place, data: bytes | Sequence[bytes | memoryview], *, new: bool = False) -> None:
        self.target = target
        self._chunks, self._new = [data] if isinstance(data, bytes) else data, new
        if isinstance(target, Url):
            return
        self._temporary = temporary(target)
        try:
            with open(self._temporary, "xb") as file:
                for chunk in self._chunks:
                    file.write(chunk)
                flush(file)
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        """Take the final name: atomic, and on disk when this returns."""
        if isinstance(self.target, Url):
            self.target.write(self._chunks, new=self._new)
        else:
            os.replace(self._temporary, self.target)
            sync_folder(self.target.parent)

    def discard(self) -> None:
        if isinstance(self.target, Path):
            with contextlib.suppress(OSError):
                self._temporary.unlink()


def temporary(target: Path) -> Path:
    """A name beside a file that nothing else gives."""
    return target.with_name(f".tmp-{target.name[:100]}-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}")


def flush(file: IO[bytes]) -> None:
    """Have what was written to a file on disk."""
    file.flush()
    os.fsync(file.fileno())


def is_temporary(name: str) -> bool:
    """Whether a file bears a name that only :func:`temporary` gives."""
    return _TEMPORARY.fullmatch(name) is not None


def is_regular(path: Place) -> bool:
    """Whether there is a regular file: no link, folder, pipe or device."""
    if isinstance(path, Url):
        return path.is_file()
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


@contextlib.contextmanager
def opened(path: Place) -> Iterator[BinaryIO]:
    """A regular file to read.

    Raises:
        DamagedError: There is none.
        StoreError: It is of another kind, or may not be read.
    """
    try:
        with path.open() if isinstance(path, Url) else open_regular(path) as file:
            yield file
    except FileNotFoundError as error:
        raise DamagedError(f"{path} is missing; the same extraction makes it again.") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Place, lost: str = "Nothing that was stored before is lost.") -> Iterator[None]:
    """Turn the system's errors into StoreError: what happened, what is lost, how to go on."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}.get(
                error.errno, "the largest allowed file size is reached"
            )
            fix = "Make room and run the same command again: it goes on where it stopped."
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            reason, fix = f"no permission to write there ({error.strerror})", "Choose another folder."
        else:
            reason, fix = (error.strerror or str(error), "Run the same command again to go on where it stopped.")
        raise StoreError(f"Cannot write to the store {path}: {reason}. {lost} {fix}") from error


class WriterLock:
    """The right to write to a folder; the system takes it back when the process ends, however it ends.

    It is had alone, or shared with others who write beside. The folder itself is locked, so that no lock file stays
    behind. Where there are no locks (object stores, some network drives), nothing keeps writers apart: they do no harm
    to each other, since nobody removes anything there. A forked child does not have its parent's right.

    Attributes:
        alone: Whether nobody else writes: it was taken alone, from a system that knows locks.
    """

    def __init__(self, folder: Place, *, shared: bool = False) -> None:
        self._folder = folder
        self._descriptor: int | None = None
        self._owner = os.getpid()
        self.alone = False
        if isinstance(folder, Url):
            return
        try:
            import fcntl  # noqa: F401
        except ImportError:  # Windows
            return
        self._descriptor = os.open(folder, os.O_RDONLY)
        tries = _TRIES if shared else 1  # who makes a store, or is the last to leave it, has it alone for a moment
        while not self._lock(shared=shared):
            if not (tries := tries - 1):
                self.release()
                others = "alone to" if shared else "to"
                raise StoreError(
                    f"Another run is writing {others} the store {folder}. Wait for it, or choose another folder."
                )
            time.sleep(_PAUSE)

    def _lock(self, *, shared: bool) -> bool:
        """Whether the right was had; it is, too, where there are no locks."""
        import fcntl

        if self._descriptor is None:
            return True
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            self.release()
        self.alone = not shared and self._descriptor is not None
        return True

    @property
    def held(self) -> bool:
        """Whether this process is the one that took the lock."""
        return self._owner == os.getpid()

    def share(self) -> None:
        """Let others write beside."""
        if self.alone and not self._lock(shared=True):
            raise StoreError(f"Another run is writing alone to the store {self._folder}. Wait for it.")

    def last(self) -> bool:
        """Whether nobody writes beside any more; if so, nobody can from now on. Else the right is given up."""
        return self.alone or (self._descriptor is not None and self._lock(shared=False) and self.alone)

    def release(self) -> None:
        """Let others write, also where forked children still have the folder open."""
        self.alone = False
        if self._descriptor is None:
            return
        if self.held:
            with contextlib.suppress(OSError, ImportError):  # none is imported where the interpreter ends
                import fcntl

                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        os.close(self._descriptor)
        self._descriptor = None

    def __del__(self) -> None:
        self.release()
