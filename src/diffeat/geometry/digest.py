"""Names for contents: the digest of a file, and the digest of what a picture shows."""

from __future__ import annotations

import hashlib
import math
import os
import struct

from PIL import Image

from diffeat.errors import ImageError
from diffeat.files import open_regular

_STRIP = 1 << 18  # pixels that are hashed at once
#: Pixels of which a picture's noise is keyed by all; of larger pictures, by as many.
KEYED = 1 << 20


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

    It does not depend on the file format, the name or the metadata: a PNG and a BMP of the same photo have the same.
    """
    return _digest(image, max(1, _STRIP // image.width), 1)


def noise_key(image: Image.Image) -> str:
    """What keys the noise of a picture: its :func:`pixel_digest`, of one beyond 1,048,576 pixels that of evenly spaced
    rows, since to hash twelve megapixels takes as long as a fifth of decoding and resizing them.
    """
    every = -(-image.width * image.height // KEYED)
    return pixel_digest(image) if every == 1 else _digest(image, 1, every)


def _digest(image: Image.Image, rows: int, every: int) -> str:
    """Of ``rows`` rows at a time, of which each ``every``-th counts."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    rgb.load()
    digest = hashlib.sha256(struct.pack("<II", *rgb.size))
    width, height = rgb.size
    for top in range(0, height, rows * every):
        bottom = min(top + rows, height)
        encoder = Image._getencoder("RGB", "raw", "RGB")  # as tobytes() does, without copies of the strip
        encoder.setimage(rgb.im, (0, top, width, bottom))
        digest.update(encoder.encode(3 * width * (bottom - top))[2])
    return digest.hexdigest()
