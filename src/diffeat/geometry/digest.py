"""Names for contents: the digest of a file, and the digest of what a picture shows."""

from __future__ import annotations

import hashlib
import math
import os
import struct

from PIL import Image

from diffeat.errors import ImageError
from diffeat.files import open_regular
from diffeat.geometry.images import strips


def file_digest(path: str | os.PathLike[str], most: float = math.inf) -> str:
    """SHA-256 of a file's bytes, 64 hexadecimal digits.

    Args:
        most: Bytes that it may have.

    Raises:
        ImageError: The file cannot be read, or is larger.
    """
    try:
        with open_regular(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > most:
                raise ImageError(f"{os.fspath(path)}: a file of {size / 1e9:.1f} GB is not read as a picture.")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"{os.fspath(path)}: cannot read the file ({error.strerror or error}).") from error


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB values, 64 hexadecimal digits.

    It does not depend on the file format, the name or the metadata, so it keys the noise of a picture:
    a PNG and a BMP of the same photo get the same noise.
    """
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    digest = hashlib.sha256(struct.pack("<II", *rgb.size))
    for _, strip in strips(rgb):
        digest.update(strip.tobytes())
    return digest.hexdigest()
