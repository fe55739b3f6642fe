"""Pieces of pictures to learn from, cut alike from the picture and from what is known of its pixels.

A cut lies on the picture scaled to a whole number of pixels. Colours are resampled; labels, depth and normals are taken
from the pixel under each centre, so that no value arises that is not there. Beyond the picture they count as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffeat.tasks.dense.options import DenseOptions

Size = tuple[int, int]
_TRIES = 10


@dataclass(frozen=True)
class Cut:
    """A piece of a picture.

    Attributes:
        original: (width, height) of the picture.
        scaled: Of the picture when the piece is cut.
        box: (left, top, width, height) on the scaled picture; may reach beyond it.
        flip: Whether left and right are exchanged, afterwards.
        light: Seed of a photometric distortion, if there is one.
    """

    original: Size
    scaled: Size
    box: tuple[int, int, int, int]
    flip: bool = False
    light: int | None = None

    @classmethod
    def whole(cls, size: Size, flip: bool = False, light: int | None = None) -> Cut:
        """All of a picture, at its own size."""
        return cls(size, size, (0, 0, *size), flip, light)

    @property
    def plain(self) -> bool:
        return self == Cut.whole(self.original)

    @property
    def key(self) -> str:
        """Tells it from other pieces of the picture."""
        left, top, width, height = self.box
        light = "" if self.light is None else f" light {self.light}"
        return f"{width}x{height}{left:+d}{top:+d} of {self.scaled[0]}x{self.scaled[1]}{' flipped' * self.flip}{light}"

    def image(self, picture: Image.Image) -> Image.Image:
        """The piece of a picture; black beyond it."""
        left, top, width, height = self.box
        x0, y0, x1, y1 = self._inside
        x, y = self.original[0] / self.scaled[0], self.original[1] / self.scaled[1]
        whole = (0, 0, *self.scaled) == (x0, y0, x1, y1) and self.scaled == self.original
        inner = picture
        if not whole:
            area = (x0 * x, y0 * y, x1 * x, y1 * y)
            inner = picture.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, box=area, reducing_gap=None)
        if inner.size != (width, height):
            canvas = Image.new("RGB", (width, height))
            canvas.paste(inner, (x0 - left, y0 - top))
            inner = canvas
        if self.light is not None:
            inner = distorted(inner, self.light)
        return inner.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else inner

    def values(self, known: NDArray, fill: float) -> NDArray:
        """The piece of (…, H, W) values of the picture's pixels; ``fill`` beyond it."""
        left, top, width, height = self.box
        x0, y0, x1, y1 = self._inside
        piece = np.full((*known.shape[:-2], height, width), fill, known.dtype)
        rows = ((np.arange(y0, y1) + 0.5) * (self.original[1] / self.scaled[1])).astype(int)
        columns = ((np.arange(x0, x1) + 0.5) * (self.original[0] / self.scaled[0])).astype(int)
        piece[..., y0 - top : y1 - top, x0 - left : x1 - left] = known[..., rows[:, None], columns[None]]
        return piece[..., ::-1].copy() if self.flip else piece

    @property
    def _inside(self) -> tuple[int, int, int, int]:
        left, top, width, height = self.box
        return max(0, left), max(0, top), min(self.scaled[0], left + width), min(self.scaled[1], top + height)


def drawn(
    size: Size, options: DenseOptions, side: int | None, rng: np.random.Generator, labels: NDArray | None = None
) -> Cut:
    """A random piece of a picture.

    Args:
        size: (width, height) of the picture.
        side: Of a square crop in pixels; ``None`` for the whole picture. A crop is of this many pixels of the picture,
            or where the options say ``square`` of its shorter side, times the jitter.
        labels: (H, W) of the picture, where one class may fill only a share of the crop.
    """
    low, high = options.jitter
    scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    flip = bool(rng.random() < options.flip)
    light = int(rng.integers(2**31)) if options.photometric else None
    if side is None:
        return Cut.whole(size, flip, light)
    if options.crop == "square":
        scale *= side / min(size)
    scaled = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
    cut = Cut(size, scaled, (0, 0, side, side), flip, light)
    for _ in range(_TRIES):
        left, top = (_offset(length, side, rng) for length in scaled)
        cut = Cut(size, scaled, (left, top, side, side), flip, light)
        if labels is None or options.most == 1 or _mixed(cut.values(labels, 255), options.most):
            break
    return cut


def _offset(length: int, side: int, rng: np.random.Generator) -> int:
    """Where a crop begins; a picture that is smaller than the crop lies somewhere inside it."""
    spare = length - side
    return int(rng.integers(spare + 1)) if spare >= 0 else -int(rng.integers(-spare + 1))


def _mixed(labels: NDArray, most: float) -> bool:
    counts = np.bincount(labels.ravel(), minlength=256)[:255]
    return bool(counts.sum()) and counts.max() <= most * counts.sum() and (counts > 0).sum() > 1


def distorted(image: Image.Image, seed: int) -> Image.Image:
    """Brightness, contrast, saturation and hue changed, each of them in every second picture.

    The ranges are those of SSD (Liu et al., ECCV 2016): ±32 grey levels, half to one and a half times the contrast and
    the saturation, ±36° of hue.
    """
    rng = np.random.default_rng(seed)
    values = np.asarray(image, np.float32)
    if rng.random() < 0.5:
        values = values + rng.uniform(-32, 32)
    if rng.random() < 0.5:
        values = values * rng.uniform(0.5, 1.5)
    image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    hue, saturation, value = (np.asarray(band, np.float32) for band in image.convert("HSV").split())
    if rng.random() < 0.5:
        saturation = (saturation * rng.uniform(0.5, 1.5)).clip(0, 255)
    if rng.random() < 0.5:
        hue = (hue + rng.uniform(-25.6, 25.6)) % 256
    bands = np.stack([hue, saturation, value], axis=-1).astype(np.uint8)
    return Image.fromarray(bands, "HSV").convert("RGB")
