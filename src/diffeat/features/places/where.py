"""Where one picture lies: a small value that any process can open.

Each kind of place (a folder, a tar, a table, a video …) gives :class:`Found` pictures, each with its own kind of
:class:`Where`. Nothing is opened until it is asked for, and bytes are hashed while they are read.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, ClassVar

from PIL import Image

from diffeat.errors import DiffeatError, ImageError
from diffeat.geometry import open_image

#: Bytes of a picture's file that are read into memory.
MOST = 1 << 31


@dataclass(frozen=True)
class Wanted:
    """What is asked of the places; ``None`` is each place's own way.

    Attributes:
        fps: Frames per second of a video.
        column: Of a table or list: the pictures.
        caption_column: Of a table or list: the text for each picture. Of files and members of archives: the ending of
            the text that lies beside a picture (``txt``), or a key of the ``.json`` beside it.
        name_column: Of a table or list: the pictures' names.
    """

    fps: float | None = None
    column: str | None = None
    caption_column: str | None = None
    name_column: str | None = None


class Where(ABC):
    """Where one picture lies; messages call it ``str()``."""

    @property
    def in_order(self) -> bool:
        """Whether pictures are to be fetched one after the other: each would cost much in another order."""
        return False

    @abstractmethod
    def open(self) -> tuple[Image.Image, str | None]:
        """The picture, upright RGB, and the digest of its bytes if there are any and it is known by now.

        Raises:
            ImageError: It cannot be read; names the place and the reason.
        """

    def fetch(self) -> Where:
        """What can be opened in any order."""
        return self

    def digest(self) -> str | None:
        """SHA-256 of its bytes; ``None`` where there are none but pixels. Raises as :meth:`open`."""
        return None

    def stamp(self) -> str | None:
        """Changes when the picture may have changed, and is told without reading it; ``None`` where nothing is."""
        return None

    def check(self) -> None:
        """Raise what :meth:`open` would raise, as far as that can be told without reading."""
        return

    @property
    def bytes_held(self) -> int:
        """In memory."""
        return 0


class Encoded(Where):
    """The bytes of a picture's file."""

    @abstractmethod
    def read(self) -> bytes:
        """All its bytes. Raises as :meth:`open`."""

    def open(self) -> tuple[Image.Image, str | None]:
        return self.fetch().open() if self.in_order else Fetched(str(self), self.read()).open()

    def fetch(self) -> Where:
        return Fetched(str(self), self.read()) if self.in_order else self

    def digest(self) -> str | None:
        return hashlib.sha256(self.read()).hexdigest()


@dataclass(frozen=True)
class Inside(Where):
    """A picture in a file that holds many, which had a stamp (``mark``) when it was listed."""

    file: File
    mark: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.file}/{self.name}"


@dataclass(frozen=True)
class Fetched(Where):
    """Bytes in memory."""

    label: str
    data: bytes

    def __str__(self) -> str:
        return self.label

    def open(self) -> tuple[Image.Image, str | None]:
        return open_image(self.data, self.label), hashlib.sha256(self.data).hexdigest()

    @property
    def bytes_held(self) -> int:
        return len(self.data)


@dataclass(frozen=True)
class Broken(Where):
    """A picture that is known to be unreadable, or a place that does not give what it should."""

    message: str

    def __str__(self) -> str:
        return self.message

    def open(self) -> tuple[Image.Image, str | None]:
        raise ImageError(self.message)

    def digest(self) -> str | None:
        raise ImageError(self.message)

    def check(self) -> None:
        raise ImageError(self.message)


@dataclass(frozen=True)
class Found:
    """A picture in a place.

    Attributes:
        path: Of the place as it was given, and of the picture in it: ``shards/a.tar/0001.jpg``.
        root: The folder that its name is relative to, if no other is given.
        options: Fields of :class:`Wanted` that were regarded.
    """

    path: str
    root: str
    where: Where
    text: str | None = None
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Passed:
    """A file that is no picture."""

    path: str
    reason: str


class File(Encoded):
    """A file of its own, here or elsewhere."""

    @abstractmethod
    def stream(self) -> BinaryIO:
        """Open it, to be read from anywhere. Raises as :meth:`open`."""


#: Name in its file, place and text of a picture.
Member = tuple[str, Where, str | None]


class Place(ABC):
    """A kind of file that holds many pictures, told by its name's ending."""

    #: For messages and the documentation.
    what: ClassVar[str]
    endings: ClassVar[tuple[str, ...]]
    #: The fields of :class:`Wanted` that it takes.
    options: ClassVar[tuple[str, ...]] = ()
    #: Whether names of pictures go on from that of the file, or from its folder.
    inside: ClassVar[bool] = True

    @classmethod
    @abstractmethod
    def pictures(cls, file: File, wanted: Wanted) -> Iterator[Member]:
        """Name in the file, place and text of each picture, in a fixed order. Only what tells these is read.

        Raises:
            ImageError: The file cannot be read, or not to its end; what came before stays.
        """


def once(file: File, members: Iterable[Member]) -> Iterator[Member]:
    """Each name once: a further picture of that name is one that cannot be read.

    Raises:
        ImageError: There are none.
    """
    seen = dict[str, int]()
    for name, where, text in members:
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            why = f"{file}: {name} stands there {seen[name]} times; the first is read. Rename this one."
            yield f"{name}#{seen[name]}", Broken(why), None
        else:
            yield name, where, text
    if not seen:
        raise ImageError(f"{file}: holds no pictures.")


def reason(error: BaseException) -> str:
    """An exception of a library in a few words."""
    if isinstance(error, DiffeatError):
        return str(error)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())[:200]
