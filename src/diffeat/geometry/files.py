"""Files as they are found: which of them are pictures, and how any file is read without waiting or growing for ever."""

from __future__ import annotations

import csv
import errno
import io
import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

from diffeat.errors import did_you_mean

#: The formats that are tried, by content and whatever a file is called, and the name endings that count as a picture
#: inside a folder.
FORMATS = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "PNG": ("png",),
    "BMP": ("bmp", "dib"),
    "GIF": ("gif",),
    "PPM": ("ppm", "pgm", "pbm", "pnm"),
    "TIFF": ("tif", "tiff"),
    "WEBP": ("webp",),
    "AVIF": ("avif",),
}
IMAGE_SUFFIXES = frozenset(f".{ending}" for endings in FORMATS.values() for ending in endings)

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file for reading bytes, if it is one: a pipe or a device could keep us waiting for ever.

    Raises:
        OSError: It cannot be read, or is a pipe, a device, a socket or a folder; ``strerror`` says which.
    """
    try:
        _check_regular(os.stat(path).st_mode, path)  # opening a device can do something
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from None
    try:
        _check_regular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(mode: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"{_KINDS.get(stat.S_IFMT(mode), 'something else')}, not a file", os.fspath(path))


def read_bytes(path: str | os.PathLike[str], most: int = 1 << 30) -> bytes:
    """All bytes of a regular file.

    Raises:
        OSError: See :func:`open_regular`; or it holds more than ``most`` bytes.
    """
    with open_regular(path) as file:
        data = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)
        if len(data) > most:
            raise OSError(errno.EFBIG, f"more than {most:,} bytes", os.fspath(path))
        return data


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a regular UTF-8 file, without a byte order mark.

    Raises:
        OSError: See :func:`read_bytes`.
        ValueError: It is not UTF-8; names the line.
    """
    data = read_bytes(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8 text (byte {data[error.start] if data else 0:#04x})") from None


def read_rows(path: str | os.PathLike[str], columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header line, each with its line number.

    Args:
        path: A regular UTF-8 file.
        columns: Those that it must have.

    Raises:
        OSError: See :func:`read_bytes`.
        ValueError: It is not UTF-8 or not CSV, lacks a column, or a row has not as many cells as the header; names the
            line.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows = []
    try:
        header = next(reader, [])
        for column in columns:
            if header.count(column) != 1:
                has = ", ".join(header) or "none"
                raise ValueError(
                    f"the header needs one column {column!r}; it has {has}. {did_you_mean(column, header)}".rstrip()
                )
        for cells in reader:
            if cells and len(cells) != len(header):
                raise ValueError(
                    f"line {reader.line_num} has {len(cells)} cells, but the header {len(header)} columns (a comma "
                    "inside a text needs quotes around it)"
                )
            if cells:
                rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    return rows


@dataclass(frozen=True)
class FoundImages(Sequence[Path]):
    """The pictures found, as a sequence of paths, and what was passed over.

    Attributes:
        images: Paths of the pictures.
        roots: For each, the folder that was searched, or the one that the file lies in.
        skipped: Path and reason of everything in the folders that is not a picture.
    """

    images: tuple[Path, ...]
    roots: tuple[Path, ...] = ()
    skipped: tuple[tuple[Path, str], ...] = ()

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Path, ...]: ...
    def __getitem__(self, index: int | slice) -> Path | tuple[Path, ...]:
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)


def find_images(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> FoundImages:
    """Find pictures: files as they are given, folders searched to the bottom in sorted order.

    A file that is named outright always counts as a picture, whatever its name and whether or not it exists:
    opening it tells the reason if it is none. In folders the name ending decides; hidden files and folders
    are passed over. Links to folders are followed, each folder once. A picture that is reached twice is listed once.

    Args:
        paths: One or several files and folders.

    Returns:
        The pictures in the order of the arguments, each folder's contents sorted, and the files passed over.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    images: dict[str, tuple[Path, Path]] = {}
    skipped: list[tuple[Path, str]] = []
    for path in map(Path, given):
        folder = os.path.isdir(path)
        for file in _walk(path, skipped) if folder else [path]:
            reason = _why_not(file) if folder else ""
            if reason:
                skipped.append((file, reason))
            else:
                images.setdefault(os.path.abspath(file), (file, path if folder else path.parent))
    return FoundImages(
        tuple(file for file, _ in images.values()), tuple(root for _, root in images.values()), tuple(skipped)
    )


def _walk(folder: Path, skipped: list[tuple[Path, str]]) -> list[Path]:
    """Every file below a folder, sorted. Linked folders come after all others: a link never takes a name away."""
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting, links = [folder], list[Path]()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop(0)
        try:
            status = os.stat(here)
            if (status.st_dev, status.st_ino) in seen:
                skipped.append((here, "a link to a folder that is searched already"))
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(here) as entries:
                for entry in sorted(entries, key=lambda e: e.name):
                    if not entry.is_dir():
                        files.append(Path(entry.path))
                    elif not entry.name.startswith("."):
                        (links if entry.is_symlink() else waiting).append(Path(entry.path))
        except OSError as error:
            skipped.append((here, f"cannot list the folder ({error.strerror})"))
    return sorted(files)


def _why_not(file: Path) -> str:
    if file.name.startswith("."):
        return "hidden file"
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        return f"not a picture by its name ({file.suffix or 'no ending'})"
    return ""
