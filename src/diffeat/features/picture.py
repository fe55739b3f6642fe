"""Pictures on their way into an extraction: opened, named and keyed."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from PIL import Image

from diffeat.geometry import file_digest, open_image, pixel_digest


@dataclass(frozen=True)
class Picture:
    """An open picture.

    Attributes:
        name: What results call it.
        image: RGB, upright.
        digest: Hash of the file, or of the pixels where there is no file; identifies it in a store.
        key: Hash of the pixels; keys its noise, so that the same picture gives the same features however it came.
        text: The prompt the model reads for it.
    """

    name: str
    image: Image.Image
    digest: str
    key: str
    text: str


#: A path, a PIL image, an array (see :func:`diffeat.geometry.open_image`), or an open picture.
ImageLike = str | PathLike[str] | Image.Image | Picture | Any


def load_picture(source: ImageLike, text: str) -> Picture:
    """Open a picture; one that is open already is returned as it is, with its own text.

    Raises:
        ImageError: If it cannot be read; names the file and the reason.
    """
    if isinstance(source, Picture):
        return source
    image = open_image(source)
    key = pixel_digest(image)
    if isinstance(source, (str, PathLike)):
        return Picture(Path(source).as_posix(), image, file_digest(source), key, text)
    return Picture(f"image-{key[:12]}", image, key, key, text)
