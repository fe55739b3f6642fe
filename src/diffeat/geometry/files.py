"""Which files of the given files and folders are pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

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
                    if not _is_folder(entry):
                        files.append(Path(entry.path))
                    elif not entry.name.startswith("."):
                        (links if entry.is_symlink() else waiting).append(Path(entry.path))
        except OSError as error:
            skipped.append((here, f"cannot list the folder ({error.strerror})"))
    return sorted(files)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """What cannot be told (a link that leads to itself, or where one may not go) is a file, and costs no other."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _why_not(file: Path) -> str:
    if file.name.startswith("."):
        return "hidden file"
    if file.suffix.lower() not in IMAGE_SUFFIXES:
        return f"not a picture by its name ({file.suffix or 'no ending'})"
    return ""
