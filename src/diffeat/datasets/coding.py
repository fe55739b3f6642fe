"""How a mask file spells labels: numbers, or colours of a table.

===============================  =======================================================================
 the file                         what is looked up
===============================  =======================================================================
 ``.npy``, grey, 16 bit, 1 bit    the number; the colour, where all colours of the table are greys
 palette                          the number; the colour, where a table is told that has all its colours
 RGB, RGBA                        the colour (alpha aside); the number, where no table is told and all are grey
 one colour, alpha varies         the alpha, where no table is told
 JPEG, AVIF, lossy WebP           refused: they change labels at outlines
===============================  =======================================================================
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffeat.errors import DatasetError, clipped
from diffeat.files import open_regular
from diffeat.geometry.images import open_stored

#: The label of pixels that do not count.
IGNORE = 255
#: What a mask holds that is no label.
UNKNOWN = -1
Colour = tuple[int, int, int]
_BYTE = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True)
class Coding:
    """What the numbers or colours of masks mean.

    Attributes:
        numbers: (number, label) of those that mean one; ``None`` where every number is its own label.
        colours: (red, green, blue) and label, where there is a table of colours.
        void: Numbers that do not count, which win.
    """

    numbers: tuple[tuple[int, int], ...] | None = None
    colours: tuple[tuple[Colour, int], ...] = ()
    void: tuple[int, ...] = (IGNORE,)

    def labels(self, stored: NDArray) -> NDArray[np.integer]:
        """Labels (H, W) of what :func:`read_stored` gives; :data:`IGNORE` is void, :data:`UNKNOWN` no label.

        Example:
            The background of ADE20K is void, and labels count from the first class.

            >>> zero_is_void = Coding(tuple((k + 1, k) for k in range(150)), void=(0, 255))
            >>> zero_is_void.labels(np.array([[0, 1, 150, 151]]))
            array([[255,   0, 149,  -1]])
        """
        if stored.ndim == 3:
            return _looked_up(_packed(stored), [(_pack(c), label) for c, label in self.colours])
        table = [(v, label) for v, label in self.numbers or () if v not in self.void] + [(v, IGNORE) for v in self.void]
        if stored.dtype == np.uint8:
            return self._of_numbers(_BYTE, table)[stored]
        return self._of_numbers(stored, table)

    def _of_numbers(self, stored: NDArray, table: list[tuple[int, int]]) -> NDArray[np.integer]:
        labels = _looked_up(stored, table)
        if self.numbers is None:
            own = (stored >= 0) & (stored < IGNORE) & (labels == UNKNOWN)
            labels[own] = stored[own]
        return labels

    def told(self, classes: int) -> str:
        """What there may be in a mask of so many classes, for messages."""
        numbers = f"0 to {classes - 1}" if self.numbers is None else _spans(sorted({v for v, _ in self.numbers}))
        void = f"; {', '.join(map(str, self.void))} does not count" if self.void else ""
        return f"numbers {numbers}{void}{f'; {len(self.colours)} colours' if self.colours else ''}"

    def read(self, path: Path) -> NDArray:
        """What a mask holds, numbers (H, W) or colours (H, W, 3), by the table of the module.

        Raises:
            DatasetError: It cannot be read, or is no map of labels.
        """
        try:
            return self._stored(path)
        except Exception as error:  # damaged files raise anything
            if isinstance(error, DatasetError):
                raise
            if not os.path.exists(path):
                raise DatasetError(f"There is no label map {path}.") from None
            raise DatasetError(
                f"The label map {path} cannot be read ({clipped(str(error).removesuffix('.'), 200)})."
            ) from error

    def _stored(self, path: Path) -> NDArray:
        if path.suffix == ".npy":
            return _whole_numbers(_read_array(path), path)
        picture = open_stored(path)
        if _has_loss(picture, path):
            raise DatasetError(
                f"{path} is saved with loss ({picture.format}), which changes labels at their outlines: draw or export "
                "it anew as PNG."
            )
        alpha = picture.getchannel("A") if "A" in picture.getbands() else None
        if alpha is not None and not self.colours and not _is_even(alpha) and _is_even(picture.convert("RGB")):
            return np.asarray(alpha)
        greys = bool(self.colours) and all(r == g == b for (r, g, b), _ in self.colours)
        if picture.mode in ("P", "PA") and self.colours:
            shown = np.asarray(picture.convert("RGB"))
            if set(np.unique(_packed(shown))) <= {_pack(colour) for colour, _ in self.colours}:
                return shown
        if picture.mode in ("RGB", "RGBA", "LA") or (greys and picture.mode in ("L", "1")):
            shown = np.asarray(picture.convert("RGB"))
            if not self.colours and (shown == shown[..., :1]).all():
                return shown[..., 0]
            return shown
        return _whole_numbers(np.asarray(picture.convert("L") if picture.mode == "1" and greys else picture), path)


#: Every number is its own label, and 255 does not count.
PLAIN = Coding()


def colour_map(count: int = 256) -> tuple[Colour, ...]:
    """Pascal VOC's colours: the bits of a number spread over red, green and blue, highest first.

    Example:
        >>> colour_map(4)
        ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0))
    """
    table = np.zeros((count, 3), int)
    for number in range(count):
        for bit in range(8):
            table[number, bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return tuple((int(r), int(g), int(b)) for r, g, b in table)


def _has_loss(picture: Image.Image, path: Path) -> bool:
    if picture.format == "WEBP":
        with open_regular(path) as file:
            return not file.read(16).endswith(b"VP8L")
    return picture.format in ("JPEG", "MPO", "AVIF")


def _is_even(picture: Image.Image) -> bool:
    """Whether all pixels are alike."""
    values = np.asarray(picture)
    return bool((values == values[:1, :1]).all())


def _spans(numbers: list[int]) -> str:
    starts = [v for k, v in enumerate(numbers) if k == 0 or numbers[k - 1] != v - 1]
    ends = [v for k, v in enumerate(numbers) if k + 1 == len(numbers) or numbers[k + 1] != v + 1]
    return ", ".join(f"{a} to {b}" if a < b else f"{a}" for a, b in zip(starts, ends, strict=True))


def _pack(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _packed(colours: NDArray) -> NDArray[np.int32]:
    red, green, blue = (colours[..., k].astype(np.int32) for k in range(3))
    return red << 16 | green << 8 | blue


def _looked_up(values: NDArray, table: list[tuple[int, int]]) -> NDArray[np.int64]:
    if not table:
        return np.full(values.shape, UNKNOWN)
    keys, labels = (np.array(column) for column in zip(*sorted(table), strict=True))
    at = np.searchsorted(keys, values).clip(max=len(keys) - 1)
    return np.where(keys[at] == values, labels[at], UNKNOWN)


def _whole_numbers(values: NDArray, path: Path) -> NDArray:
    values = np.squeeze(values) if values.ndim > 2 else values
    if values.ndim != 2 or (values.dtype.kind not in "iub" and not np.array_equal(values, np.round(values))):
        raise DatasetError(
            f"{path} is no label map: whole numbers (rows, columns) are wanted, got {values.dtype} of shape "
            f"{values.shape}."
        )
    return values if values.dtype == np.uint8 else np.clip(values, -1, IGNORE + 2**16).astype(np.int64)


def _read_array(path: Path) -> NDArray:
    with open_regular(path) as file:
        values = np.load(file)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iubf":
        raise ValueError("no array of numbers")
    return values
