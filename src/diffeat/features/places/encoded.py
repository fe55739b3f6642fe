"""The bytes of a picture's file, wherever they lie: read when they are wanted, in whatever process."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from diffeat.errors import ImageError
from diffeat.files import open_regular
from diffeat.geometry import file_digest, open_image

#: Bytes of a picture's file; one that is larger would never be decoded, and is not read to be named either.
LARGEST_FILE = 16e9
#: Bytes of a file that is read as a whole, to be hashed and decoded at once.
_WHOLE = 1 << 26


class Encoded(ABC):
    """Where the file of one picture lies: a small value that any process can use; messages call it ``str()``."""

    @abstractmethod
    def read(self) -> bytes:
        """All its bytes.

        Raises:
            ImageError: They cannot be read; names the place and the reason.
        """

    def stamp(self) -> str | None:
        """Changes when the bytes may have changed, and is told without reading them; ``None`` where nothing is."""
        return None

    def digest(self) -> str:
        """SHA-256 of the bytes. Raises as :meth:`read`."""
        return hashlib.sha256(self.read()).hexdigest()

    def open(self) -> tuple[Image.Image, str | None]:
        """The picture, upright RGB, and its digest where that is known by now. The bytes are read once.

        Raises:
            ImageError: As :meth:`read`, or they are no picture.
        """
        data = self.read()
        return open_image(data, str(self)), hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class LocalFile(Encoded):
    """A file of this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        try:
            with open_regular(self.path) as file:
                return file.read()
        except OSError as error:
            raise ImageError(f"{self}: cannot read the file ({error.strerror or error}).") from error

    def stamp(self) -> str | None:
        try:
            status = os.stat(self.path)
        except (OSError, ValueError):
            return None
        return f"{status.st_size}-{status.st_mtime_ns}"

    def digest(self) -> str:
        return file_digest(self.path, LARGEST_FILE)

    def open(self) -> tuple[Image.Image, str | None]:
        try:
            with open_regular(self.path) as file:
                data = file.read() if os.fstat(file.fileno()).st_size <= _WHOLE else None
        except OSError:
            data = None  # open_image says why
        if not data:
            return open_image(self.path), None
        return open_image(data, str(self)), hashlib.sha256(data).hexdigest()
