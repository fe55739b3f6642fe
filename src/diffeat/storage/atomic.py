"""Files that are complete or absent, one writer at a time, and disk errors in plain words."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from diffeat.errors import StoreError

TEMPORARY = ".tmp-"


class StagedFile:
    """Bytes on disk under a temporary name, flushed, waiting to take their final name."""

    def __init__(self, target: Path, data: bytes) -> None:
        self.target = target
        self._temporary = target.with_name(f"{TEMPORARY}{target.name}")
        try:
            with open(self._temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            self.discard()
            raise

    def commit(self) -> None:
        """Take the final name: atomic, and on disk when this returns."""
        os.replace(self._temporary, self.target)
        sync_folder(self.target.parent)

    def discard(self) -> None:
        """Remove the temporary file."""
        with contextlib.suppress(OSError):
            self._temporary.unlink()


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
def disk_errors(path: Path, lost: str = "Nothing that was stored before is lost.") -> Iterator[None]:
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
            reason, fix = (
                error.strerror or str(error),
                "Run the same command again to go on where it stopped.",
            )
        raise StoreError(f"Cannot write to the store {path}: {reason}. {lost} {fix}") from error


class WriterLock:
    """The right to write to a folder; the system takes it back when the process ends, however it ends.

    The folder itself is locked, so that no lock file stays behind. Where the file system knows no locks
    (some network drives), nothing keeps two writers apart.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        try:
            import fcntl
        except ImportError:  # Windows
            return
        self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise StoreError(
                f"Another run is writing to the store {folder}. Wait for it, or choose another folder."
            ) from error
        except OSError:
            self.release()

    def release(self) -> None:
        """Let others write."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()
