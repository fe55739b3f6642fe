"""The EXIF tag that says how a stored picture is to be turned before it is looked at.

A stored pixel (x, y) of a W×H picture is seen at the place below; so are points, boxes and label maps that were made on
the stored pixels.

===== ============== ===== ==============
 tag   seen at        tag   seen at
===== ============== ===== ==============
 1     x, y           5     y, x
 2     W−1−x, y       6     H−1−y, x
 3     W−1−x, H−1−y   7     H−1−y, W−1−x
 4     x, H−1−y       8     y, W−1−x
===== ============== ===== ==============
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from diffeat.errors import DatasetError

Point = tuple[float, float]
Size = tuple[int, int]

_TAG = 0x0112
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation_of(image: Image.Image) -> int:
    """The tag, 1…8; 1 (upright) where there is none or the EXIF block is damaged."""
    try:
        tag = image.getexif().get(_TAG, 1)
    except Exception:  # a damaged block must not cost the picture
        return 1
    return tag if isinstance(tag, int) and tag in TRANSPOSE else 1


def upright_size(size: Size, orientation: int) -> Size:
    """(width, height) as the picture is seen."""
    return (size[1], size[0]) if orientation >= 5 else size


def upright_point(point: Point, size: Size, orientation: int) -> Point:
    """Where a point of the stored picture of ``size`` is seen."""
    x, y = point
    mirrored_x, mirrored_y = size[0] - 1 - x, size[1] - 1 - y
    if orientation in (2, 3):
        x = mirrored_x
    if orientation in (3, 4):
        y = mirrored_y
    if orientation >= 5:
        x, y = (mirrored_y if orientation in (6, 7) else y), (mirrored_x if orientation in (7, 8) else x)
    return x, y


def upright_array(values: np.ndarray, orientation: int) -> np.ndarray:
    """An array ``(H, W, …)`` over the stored pixels, as it is seen."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values


def is_stored(annotated: Size | None, stored: Size, orientation: int, what: str) -> bool:
    """Whether annotations of a picture of ``annotated`` size lie on its stored pixels and have to be turned.

    Raises:
        DatasetError: The sizes cannot tell, because both are equal or none is known.
    """
    upright = upright_size(stored, orientation)
    if orientation == 1 or (annotated == upright and upright != stored):
        return False
    if annotated == stored and upright != stored:
        return True
    if annotated is not None and annotated not in (stored, upright):
        return False  # of another picture, which who compares sizes will say
    raise DatasetError(
        f"{what}: an EXIF tag turns the picture (orientation {orientation}), and nothing tells whether its annotations "
        "are of the stored or of the turned pixels. Save the picture without the tag: turned if they were made on the "
        "picture as it is seen (ImageOps.exif_transpose of Pillow), or as it is stored."
    )
