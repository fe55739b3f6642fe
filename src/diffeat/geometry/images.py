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
"""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffeat.errors import ImageError

ImageSource = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | np.ndarray

_ORIENTATION = 0x0112
_TURNED = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # would turn the picture a second time
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(source: ImageSource) -> Image.Image:
    """Open a picture as RGB (see the table above).

    Args:
        source: A path, an open binary file, the bytes of an image file, a PIL image, or an array ``(H, W)``
            or ``(H, W, C)`` with C of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA): bool, uint8, uint16, or
            float in [0, 1].

    Returns:
        A new PIL image of mode RGB, any size from 1×1.

    Raises:
        ImageError: The source is missing, not readable, empty, truncated, corrupt, not a picture, or declares
            more pixels than Pillow's limit. The message names the source and the reason.
    """
    if isinstance(source, Image.Image):
        return _decode(source, "the picture given")
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (bytes, bytearray)):
        return _open(io.BytesIO(source), "the bytes given", len(source))
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        try:
            if path.is_dir():
                raise ImageError(f"{path}: is a folder, not a picture. Give a file, or search it with find_images.")
            with open(path, "rb") as file:
                return _open(file, str(path), os.fstat(file.fileno()).st_size)
        except FileNotFoundError as error:
            raise ImageError(f"{path}: no such file.") from error
        except PermissionError as error:
            raise ImageError(f"{path}: no permission to read the file.") from error
        except OSError as error:
            raise ImageError(f"{path}: cannot read the file ({error.strerror or error}).") from error
    if hasattr(source, "read"):
        data = source.read()
        name = getattr(source, "name", None)
        return _open(io.BytesIO(data), name if isinstance(name, str) else "the file given", len(data))
    raise ImageError(
        f"A {type(source).__name__} is not a picture. "
        "Give a path, an open binary file, bytes, a PIL image or a numpy array."
    )


def _open(file: IO[bytes], name: str, size: int) -> Image.Image:
    if size == 0:
        raise ImageError(f"{name}: the file is empty (0 bytes).")
    try:
        with Image.open(file) as image:
            return _decode(image, name)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not a picture, or one whose header is damaged.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {_bomb(error)}") from error


def _decode(image: Image.Image, name: str) -> Image.Image:
    try:
        image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name}: {_bomb(error)}") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error) as error:
        # Pillow's decoders meet damaged data with any of these.
        reason = str(error) or type(error).__name__
        raise ImageError(f"{name}: the picture is truncated or corrupt ({reason}).") from error
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block must not cost the picture
        orientation = 1
    rgb = _to_rgb(image, name)
    turn = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    rgb = rgb.transpose(turn) if turn is not None else rgb
    for key in _TURNED:
        rgb.info.pop(key, None)
    return rgb


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image).astype(np.float64) / 257)
    if image.mode in ("I", "F"):
        return _grey(_stretch(np.asarray(image), name))
    try:
        if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
            if image.mode == "La":  # Pillow undoes this premultiplication only on the way to LA
                image = image.convert("LA")
            rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
            return Image.alpha_composite(white, rgba).convert("RGB")
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    except (ValueError, OSError) as error:
        raise ImageError(
            f"{name}: colour mode {image.mode!r} cannot be turned into RGB. Save it as RGB first."
        ) from error


def _stretch(values: np.ndarray, name: str) -> np.ndarray:
    fraction = values.dtype.kind == "f"
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ImageError(f"{name}: the picture holds NaN or infinite values.")
    low, high = float(values.min()), float(values.max())
    if fraction and low >= 0 and high <= 1:
        return values * 255
    if low >= 0 and high <= 255:
        return values
    return (values - low) * (255 / max(high - low, 1e-12))


def _grey(values: np.ndarray) -> Image.Image:
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")


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
        array = np.rint(array / 257.0).astype(np.uint8)
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
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), "the array given")


def _bomb(error: Any) -> str:
    found = re.search(r"(\d+) pixels\D+(\d+) pixels", str(error))
    if not found:
        return f"the picture is too large for Pillow's safety limit ({error})."
    pixels, limit = int(found[1]), int(found[2])
    return (
        f"declares {pixels:,} pixels, more than the safety limit of {limit:,} "
        "(it may be a decompression bomb). If you trust the file, make it smaller first or raise "
        "PIL.Image.MAX_IMAGE_PIXELS."
    )
