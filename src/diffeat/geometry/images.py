"""Open any picture as 8-bit RGB, upright and opaque.

==================  ===============================================================================
 what comes in       what goes out
==================  ===============================================================================
 EXIF orientation    turned upright (an unreadable EXIF block counts as upright)
 alpha, transparent  laid over white
 palette, 1 bit      their colours
 grey                three equal channels
 16-bit grey         ``round(v / 257)``: the full range 0…65535 becomes 0…255, nothing is clipped
 float, 32-bit grey  0…1 (float) times 255; 0…255 as it is; others stretched from minimum to maximum
 CMYK, YCbCr, HSV    Pillow's conversion; colour profiles are not applied
 GIF, WebP, APNG …   the first frame
==================  ===============================================================================

Files are told by their content, whatever they are called: JPEG, PNG, WebP, TIFF, BMP, GIF, AVIF and PPM (PGM, PBM).
Nothing else is tried, so no PostScript is ever run. Only regular files are opened, and reading one picture takes 1 GB
of memory at most, or ``DIFFEAT_PICTURE_GB`` of it: what a decoder needs is estimated from the header before it starts.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffeat.errors import ImageError
from diffeat.files import open_regular
from diffeat.geometry.files import FORMATS
from diffeat.geometry.orientation import TRANSPOSE, Size, orientation_of, upright_size

T = TypeVar("T")
ImageSource = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | np.ndarray

_TURNED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # would turn the picture a second time
_LIMIT = "DIFFEAT_PICTURE_GB"
_LARGE = threading.RLock()  # of pictures that take much memory, one is read at a time
_STRIP = 1 << 18  # pixels that are converted at once
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2}  # of a pixel in memory, where not 4
_GREY_OF_16_BIT = np.rint(np.arange(1 << 16) / 257).astype(np.uint8)


def _limit() -> float:
    """Bytes that reading one picture may take."""
    try:
        return float(os.environ.get(_LIMIT) or 1) * 1e9
    except ValueError:
        raise ImageError(f"{_LIMIT} must be a number of gigabytes, got {os.environ[_LIMIT]!r}.") from None


if os.environ.get(_LIMIT) and Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own limit would forbid what is asked for
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, int(_limit() / 4))


def open_image(source: ImageSource, name: str | None = None) -> Image.Image:
    """Open a picture as RGB (see the table above).

    Args:
        source: A path, an open binary file, the bytes of an image file, a PIL image, or an array ``(H, W)``
            or ``(H, W, C)`` with C of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA): bool, uint8, uint16, or
            float in [0, 1].
        name: What messages call bytes.

    Returns:
        A new PIL image of mode RGB, any size from 1×1.

    Raises:
        ImageError: The source is missing, no regular file, not readable, empty, truncated, corrupt, not a picture of
            the formats above, or would take too much memory. The message names the source and the reason.
    """
    if isinstance(source, Image.Image):
        image = _guarded("the picture given", lambda: _upright(source, "the picture given"))
        return image.copy() if image.im is source.im else image
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray)):
        return _opened(io.BytesIO(source), name or "the bytes given", len(source), _upright)
    return _with_file(source, _upright)


def open_stored(path: str | os.PathLike[str]) -> Image.Image:
    """A picture file as it is stored: its own mode (palette numbers stay), not turned. Raises as :func:`open_image`."""

    def read(image: Image.Image, _: str) -> Image.Image:
        stored = image.copy()
        stored.format = image.format
        return stored

    return _with_file(path, read)


def stored_size(path: str | os.PathLike[str] | IO[bytes]) -> tuple[Size, int]:
    """(width, height) of a picture file as it is stored, and its EXIF orientation 1…8. Raises as :func:`open_image`."""

    def read(image: Image.Image, _: str) -> tuple[Size, int]:
        orientation = orientation_of(image)
        size = image.size  # of a TIFF as it is seen
        return upright_size(size, orientation) if image.format == "TIFF" else size, orientation

    return _with_file(path, read, load=False)


def _with_file(source: Any, use: Callable[[Image.Image, str], T], load: bool = True) -> T:
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if os.path.isdir(path):
            raise ImageError(f"{path}: is a folder, not a picture. Give a file, or search it with find_images.")
        try:
            file = open_regular(path)
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such file.") from error
        except PermissionError as error:
            raise ImageError(f"{path}: no permission to read the file.") from error
        except OSError as error:
            raise ImageError(f"{path}: cannot read the file ({error.strerror or error}).") from error
        with file:
            return _opened(file, str(path), os.fstat(file.fileno()).st_size, use, load)
    if hasattr(source, "read"):
        name = getattr(source, "name", None)
        name = name if isinstance(name, str) else "the file given"
        data = _guarded(name, lambda: source.read(int(_limit()) + 1))
        return _opened(io.BytesIO(data), name, len(data), use, load)
    raise ImageError(
        f"A {type(source).__name__} is not a picture. "
        "Give a path, an open binary file, bytes, a PIL image or a numpy array."
    )


def _opened(file: IO[bytes], name: str, size: int, use: Callable[[Image.Image, str], T], load: bool = True) -> T:
    if size == 0:
        raise ImageError(f"{name}: the file is empty (0 bytes).")

    def read() -> T:
        with Image.open(file, formats=list(FORMATS)) as image:
            needed = _bytes_to_decode(image, file, size)
            _afford(image, name, needed)
            with _LARGE if needed > _limit() / 8 else nullcontext():
                if load:
                    image.load()
                return use(image, name)

    return _guarded(name, read)


def _guarded(name: str, read: Callable[[], T]) -> T:
    """What ``read`` gives; whatever exception a decoder meets damaged data with is an :class:`ImageError`."""
    try:
        return read()
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        formats = ", ".join(FORMATS)
        raise ImageError(f"{name}: not a picture ({formats} are read), or one whose header is damaged.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {_bomb(error)}") from error
    except MemoryError as error:
        raise ImageError(f"{name}: there is not enough memory to read the picture.") from error
    except Exception as error:
        reason = (str(error) or type(error).__name__)[:200]
        raise ImageError(f"{name}: the picture is truncated or corrupt ({reason}).") from error


def _bytes_to_decode(image: Image.Image, file: IO[bytes], size: int) -> float:
    """Memory that Pillow and its decoders take at most, as measured for each format."""
    pixels = image.size[0] * image.size[1]
    tiles = getattr(image, "tile", None)
    codec = tiles[0][0] if isinstance(tiles, list) and tiles else ""
    match image.format:
        case "JPEG" | "MPO":  # of several scans: all coefficients are kept
            return pixels * (4 + (0 if _one_scan(image, file) else 2 * len(image.getbands())))
        case "WEBP":
            return pixels * 17 + size
        case "AVIF":
            return pixels * 20 + 2 * size
        case "PPM" | "BMP" if codec != "raw":  # decoded in Python, from blocks of a megabyte
            return pixels * 40 + 4e7
        case "TIFF":
            tags: Any = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
            bits = tags.get(258) or (1,)
            tile = int(tags.get(322) or 0) * int(tags.get(323) or 0)
            sample = max(bits if isinstance(bits, tuple) else (bits,)) / 8 * int(tags.get(277) or 1)
            turned = 4 if orientation_of(image) != 1 else 0
            return pixels * (4 + turned) + max(pixels, tile) * max(sample, 4)
    return pixels * (4 if image.mode == "RGB" else 4 + _BYTES.get(image.mode, 4))


def _one_scan(image: Image.Image, file: IO[bytes]) -> bool:
    """Whether the first scan of a JPEG, whose header Pillow has just read, holds all its components."""
    bands = len(image.getbands())
    place = file.tell()
    file.seek(max(0, place - 6 - 2 * bands))
    head = file.read(3)
    file.seek(place)
    return not image.info.get("progressive") and head == bytes((0, 6 + 2 * bands, bands))


def _afford(image: Image.Image, name: str, needed: float) -> None:
    if needed > (limit := _limit()):
        raise ImageError(
            f"{name}: {image.size[0]}×{image.size[1]} pixels would take {needed / 1e9:.1f} GB to read, more than "
            f"{limit / 1e9:g} GB. Make the picture smaller first, or allow more: {_LIMIT}={np.ceil(needed / 1e9):g}."
        )


def _upright(image: Image.Image, name: str) -> Image.Image:
    """RGB and turned, made from strips where there is anything to do; otherwise it shares the pixels of ``image``."""
    image.load()
    orientation = orientation_of(image)
    transparent = "transparency" in image.info
    if orientation == 1 and image.mode == "RGB" and not transparent:
        rgb = image._new(image.im)
    else:
        to_rgb = _converter(image, name)
        width, height = image.size
        rgb = Image.new("RGB", (height, width) if orientation >= 5 else (width, height))
        _afford(image, name, (4 + _BYTES.get(image.mode, 4)) * width * height)
        for top, strip in strips(image):
            part, bottom = to_rgb(strip), top + strip.height
            if orientation != 1:
                part = part.transpose(TRANSPOSE[orientation])
            start = height - bottom if orientation in (3, 4, 6, 7) else top
            rgb.paste(part, (start, 0) if orientation >= 5 else (0, start))
        rgb.info = image.info.copy()
    for key in (*_TURNED, "transparency"):
        rgb.info.pop(key, None)
    return rgb


def strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """A picture in strips of whole rows, each with the number of its first row."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _converter(image: Image.Image, name: str) -> Callable[[Image.Image], Image.Image]:
    """How a part of ``image`` becomes RGB."""
    if image.mode.startswith("I;16"):
        return lambda part: _grey(_GREY_OF_16_BIT[np.asarray(part).astype(np.uint16)])
    if image.mode in ("I", "F"):
        scale, low = _stretch(image, name)
        return lambda part: _grey(np.rint((np.asarray(part).astype(np.float64) - low) * scale).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        return _over_white
    return lambda part: part.convert("RGB")


def _over_white(part: Image.Image) -> Image.Image:
    if part.mode == "La":  # Pillow undoes this premultiplication only on the way to LA
        part = part.convert("LA")
    rgba = part.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _stretch(image: Image.Image, name: str) -> tuple[float, float]:
    """Factor and smallest value, for 0…255."""
    low, high = np.inf, -np.inf
    for _, strip in strips(image):
        values = np.asarray(strip)
        if not np.isfinite(values).all():
            raise ImageError(f"{name}: the picture holds NaN or infinite values.")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if image.mode == "F" and low >= 0 and high <= 1:
        return 255, 0
    if low >= 0 and high <= 255:
        return 1, 0
    return 255 / max(high - low, 1e-12), low


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    shape = "×".join(map(str, array.shape))
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        hint = (
            " It looks channel-first: use array.transpose(1, 2, 0)."
            if array.ndim == 3 and array.shape[0] in (1, 3, 4)
            else ""
        )
        raise ImageError(f"An array of shape {shape} is not a picture: (H, W) or (H, W, 1…4) is wanted.{hint}")
    if array.dtype == np.bool_:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        array = _GREY_OF_16_BIT[array]
    elif np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())  # NaN fails the comparison below
        if not (low >= -1e-6 and high <= 1 + 1e-6):
            raise ImageError(
                f"A float array must lie in [0, 1] to be a picture, this one in [{low:.4g}, {high:.4g}]. "
                "Scale it, or give uint8 values 0 to 255."
            )
        array = np.rint(np.clip(array.astype(np.float64), 0, 1) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ImageError(f"An array of {array.dtype} is not a picture: give bool, uint8, uint16 or float in [0, 1].")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return _upright(Image.fromarray(np.ascontiguousarray(array)), "the array given")


def _bomb(error: Any) -> str:
    found = re.search(r"(\d+) pixels\D+(\d+) pixels", str(error))
    if not found:
        return f"the picture is too large for Pillow's safety limit ({error})."
    pixels, limit = int(found[1]), int(found[2])
    return (
        f"declares {pixels:,} pixels, more than the safety limit of {limit:,} "
        f"(it may be a decompression bomb). If you trust the file, make it smaller first, set {_LIMIT} (gigabytes that "
        "a picture may take), or raise PIL.Image.MAX_IMAGE_PIXELS."
    )
