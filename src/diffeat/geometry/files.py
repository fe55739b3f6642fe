"""Which files of the given files and folders are pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

#: Name endings that are taken for pictures inside a folder.
IMAGE_SUFFIXES = frozenset(
    f".{ending}"
    for ending in (
        *("avif", "bmp", "dib", "gif", "jfif", "jp2", "jpe", "jpeg", "jpg"),
        *("pbm", "pgm", "png", "pnm", "ppm", "tga", "tif", "tiff", "webp"),
    )
)


@dataclass(frozen=True)
class FoundImages(Sequence[Path]):
    """The pictures found, as a sequence of paths, and what was passed over.

    Attributes:
        images: Paths of the pictures.
        skipped: Path and reason of everything in the folders that is not a picture.
    """

    images: tuple[Path, ...]
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
    are passed over. A picture that is reached twice is listed once.

    Args:
        paths: One or several files and folders.

    Returns:
        The pictures in the order of the arguments, each folder's contents sorted, and the files passed over.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    images: dict[Path, None] = {}
    skipped: list[tuple[Path, str]] = []
    for path in map(Path, given):
        if not path.is_dir():
            images[path] = None
            continue
        for file in _walk(path, skipped):
            reason = _why_not(file)
            if reason:
                skipped.append((file, reason))
            else:
                images[file] = None
    return FoundImages(tuple(images), tuple(skipped))


def _walk(folder: Path, skipped: list[tuple[Path, str]]) -> list[Path]:
    files: list[Path] = []

    def unreadable(error: OSError) -> None:
        skipped.append((Path(error.filename), f"cannot list the folder ({error.strerror})"))

    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(root, name) for name in names]
    return sorted(files)


def _why_not(file: Path) -> str:
    if file.name.startswith("."):
        return "hidden file"
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        return f"not a picture by its name ({file.suffix or 'no ending'})"
    return ""
