"""The pictures that the page can show: those given, those uploaded, or samples.

The browser names a picture by an id that we made; no path comes from it. Files are read only where they lie, links
resolved, in a folder that was given (or are a file that was given itself), which is looked at whenever one is read.
Uploads stay in memory, bounded in bytes, pixels and number, and are decoded as ``diffeat extract`` decodes files.
"""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from diffeat.errors import ImageError, InvalidValueError, UnknownNameError, printable, shown
from diffeat.features import Picture
from diffeat.features.places.files import LocalFile, is_url
from diffeat.features.places.look import look
from diffeat.features.places.where import Broken, Fetched, Found, Where
from diffeat.geometry.images import stored_size

#: Bytes of one upload, its pixels, how many are kept, and their bytes together.
MOST_BYTES, MOST_PIXELS, MOST_UPLOADS, MOST_TOGETHER = 32 << 20, 64_000_000, 64, 256 << 20


@dataclass(frozen=True)
class Entry:
    """One picture of the gallery.

    Attributes:
        id: What the browser calls it; the same whenever the same picture is there.
        name: What people call it.
        where: Where it lies; of a sample, what makes it.
        path: What Python and the command line would be given; empty for uploads.
    """

    id: str
    name: str
    where: Where
    path: str = ""

    def picture(self) -> Picture:
        """A picture that is opened anew."""
        return Picture(self.name, self.where)


@dataclass(frozen=True)
class Confined(LocalFile):
    """A file that is read only where it lies in a root, links resolved."""

    roots: tuple[Path, ...]

    def stream(self) -> BinaryIO:
        self.check()
        return super().stream()

    def open(self) -> tuple[Image.Image, str | None]:
        self.check()
        return super().open()

    def digest(self) -> str | None:
        self.check()
        return super().digest()

    def check(self) -> None:
        if not _inside(self.path, self.roots):
            raise ImageError(f"{self.path.name} leads out of the folders that were given. It is not read.")
        super().check()


@dataclass(frozen=True)
class Sample(Where):
    """A photograph that is installed with scikit-image."""

    name: str

    def __str__(self) -> str:
        return self.name

    def open(self) -> tuple[Image.Image, str | None]:
        from diffeat.datasets.samples import photo

        return photo(self.name), None


class Gallery:
    """Pictures by id.

    Args:
        paths: Files, folders, globs and files that hold many, as ``diffeat extract`` takes them; samples if none.

    Attributes:
        passed: What is not shown, and why.

    Raises:
        InvalidValueError: Paths were given, and there is no picture.
    """

    def __init__(self, paths: Sequence[str] = ()) -> None:
        self.passed: list[str] = []
        self._uploads: dict[str, Entry] = {}
        self._lock = threading.Lock()
        entries = _given(paths, self.passed) if paths else _samples()
        self._given = {entry.id: entry for entry in entries}
        self._sizes: dict[str, tuple[int, int]] = {}
        if not self._given:
            reasons = f" ({'; '.join(self.passed[:3])})" if self.passed else ""
            raise InvalidValueError(f"There are no pictures in {', '.join(map(str, paths))}{reasons}.")

    def __len__(self) -> int:
        return len(self._given) + len(self._uploads)

    def entries(self, query: str = "") -> list[Entry]:
        """Uploads first, the newest before the others; those whose name holds all words of ``query``."""
        words = query.lower().split()
        with self._lock:
            every = [*reversed(self._uploads.values()), *self._given.values()]
        return [entry for entry in every if all(word in entry.name.lower() for word in words)]

    def __getitem__(self, id: str) -> Entry:
        with self._lock:
            entry = self._uploads.get(id) or self._given.get(id)
        if entry is None:
            raise UnknownNameError(f"There is no picture {shown(id)} here any more. Give or drop it again.")
        return entry

    def size(self, entry: Entry) -> tuple[int, int]:
        """(width, height), upright. Raises as opening it."""
        if entry.id not in self._sizes:
            self._sizes[entry.id] = _size(entry)
        return self._sizes[entry.id]

    def upload(self, name: str, data: bytes) -> Entry:
        """Take a picture.

        Raises:
            ImageError: It is no picture that is read here, damaged, or too large.
            InvalidValueError: There is no more room.
        """
        name = printable(os.path.basename(name.replace("\\", "/")))[:120] or "picture"
        if len(data) > MOST_BYTES:
            raise ImageError(too_large(name))
        (width, height), _ = stored_size(_Named(data, name))
        if width * height > MOST_PIXELS:
            raise ImageError(
                f"{name} has {width * height / 1e6:.0f} million pixels; the page takes {MOST_PIXELS // 10**6} million. "
                "Make it smaller first."
            )
        where = Fetched(name, data)
        image, _ = where.open()
        id = _id("upload", hashlib.sha256(data).hexdigest())
        with self._lock:
            together = sum(entry.where.bytes_held for entry in self._uploads.values())
            if id not in self._uploads and (len(self._uploads) >= MOST_UPLOADS or together + len(data) > MOST_TOGETHER):
                raise InvalidValueError(
                    f"The page keeps {MOST_UPLOADS} dropped pictures ({MOST_TOGETHER >> 20} MB). Take some away first, "
                    "or start diffeat app with their folder."
                )
            self._uploads.pop(id, None)
            entry = self._uploads[id] = Entry(id, name, where)
        self._sizes[id] = image.size
        return entry

    def remove(self, id: str) -> None:
        """Forget an uploaded picture; there need not be one."""
        with self._lock:
            self._uploads.pop(id, None)
            self._sizes.pop(id, None)

    def is_upload(self, entry: Entry) -> bool:
        """Whether it came from the browser."""
        return entry.id in self._uploads


class _Named(io.BytesIO):
    """Bytes that messages call by a name."""

    def __init__(self, data: bytes, name: str) -> None:
        super().__init__(data)
        self.name = name


def too_large(name: str) -> str:
    """What is said of an upload of too many bytes."""
    return f"{name} is larger than {MOST_BYTES >> 20} MB, the most that the page takes. Make it smaller first."


def _size(entry: Entry) -> tuple[int, int]:
    if isinstance(entry.where, Confined):
        entry.where.check()
        (width, height), orientation = stored_size(entry.where.path)
        return (height, width) if orientation >= 5 else (width, height)
    return entry.picture().image.size


def _samples() -> list[Entry]:
    from diffeat.datasets.samples import SAMPLES

    names = ("chelsea", *(name for name in SAMPLES if name != "chelsea"))
    return [Entry(_id("sample", name), f"{name}.png", Sample(name), f"photos/{name}.png") for name in names]


def _given(paths: Iterable[str], passed: list[str]) -> list[Entry]:
    entries: dict[str, Entry] = {}
    paths = [os.fspath(path) for path in paths]
    roots = tuple(Path(path).resolve() for path in paths if not is_url(path) and os.path.exists(path))
    for path in paths:
        fixed = roots if os.path.exists(path) else (*roots, Path(_fixed_part(path)).resolve())
        for found in look(path):
            if not isinstance(found, Found):
                continue
            where = found.where
            if isinstance(where, Broken):
                passed.append(str(where))
                continue
            if isinstance(where, LocalFile):
                where = Confined(where.path, fixed)
            try:
                where.check()
            except ImageError as error:
                passed.append(str(error))
                continue
            picture = Picture(found.path, where)
            id = _id("given", picture.name)
            entries.setdefault(id, Entry(id, picture.name, where, picture.name))
    return list(entries.values())


def _fixed_part(pattern: str) -> str:
    """The folder of a glob: what lies before its first wildcard."""
    head = pattern[: min((pattern.index(c) for c in "*?[{" if c in pattern), default=len(pattern))]
    return os.path.dirname(head) or "."


def _inside(path: Path, roots: Iterable[Path]) -> bool:
    real = path.resolve()
    return any(real == root or root in real.parents for root in roots)


def _id(kind: str, content: str) -> str:
    return hashlib.sha256(f"{kind}:{content}".encode()).hexdigest()[:12]
