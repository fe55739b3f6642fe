"""Pictures on their way into an extraction: named, and opened when they are needed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import cached_property, partial
from os import PathLike
from typing import IO, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from diffeat.errors import DiffeatError, ImageError, InvalidValueError, printable
from diffeat.features.places.files import file_at
from diffeat.features.places.look import look
from diffeat.features.places.where import Found, Where
from diffeat.geometry import Frame, noise_key, open_image, pixel_digest
from diffeat.geometry.digest import KEYED
from diffeat.geometry.images import ImageSource
from diffeat.memory import moved

_NOT_UNICODE = re.compile("[\ud800-\udfff]")


class Picture:
    """A picture by name; its pixels are read when first asked for, and kept.

    It can be pickled: what goes to another process is where it lies, not its pixels.

    Args:
        name: What results call it; bytes that are not UTF-8 are written with a backslash (:func:`legible`).
        open: Where its file lies, or what gives the picture, in any mode. A stream calls it anew and forgets the
            pixels, so that a list of many pictures stays small.
        text: What the model reads for it; ``None`` leaves the text to the recipe.
        digest: Identifies it in a store, or computes what does; the hash of the pixels if not given.

    Attributes:
        is_file: Whether any thread may open it, in any order; see :meth:`fetch`.
        apart: Pictures of which it differs share no call.
        noise: That was drawn for it ahead of the model, by what it is for.

    Raises:
        InvalidValueError: The text is not UTF-8.
    """

    def __init__(
        self,
        name: str,
        open: Where | Callable[[], ImageSource],
        *,
        text: str | None = None,
        digest: Callable[[], str] | str | None = None,
    ) -> None:
        self.name = legible(name)
        if text is not None and _NOT_UNICODE.search(text):
            raise InvalidValueError(f"{self.name}: its text is not UTF-8: {text[:80]}")
        self.text = text
        self.is_file = isinstance(open, Where) and not open.in_order
        self.apart: Hashable = None
        self._open = open
        self._digest = digest
        self._fetched: Where | None = None
        self._levels: dict[Frame, Tensor] = {}
        self.noise: dict[Hashable, Tensor] = {}

    @classmethod
    def of(cls, source: ImageLike, text: str | None = None, *, name: str | None = None) -> Picture:
        """The picture that a path, an array, a tensor, a PIL image or an open file stands for.

        Paths and URLs are opened later; they are called ``name``, or as given. Other pictures are opened now and called
        by their pixels. A :class:`Picture` is returned as it is, with its own text if it has one.

        Raises:
            ImageError: An array, a tensor or an open file that is no picture.
        """
        if isinstance(source, Picture):
            return source if source.text is not None or text is None else source.told(text)
        if isinstance(source, (str, PathLike)):
            file = file_at(source)
            return cls(name or str(file), file, text=text)
        image = open_image(_array(source) if isinstance(source, Tensor) else source)
        picture = cls("", partial(_same, image), text=text)
        picture.name = f"image-{picture.digest[:12]}"
        return picture

    @cached_property
    def image(self) -> Image.Image:
        """RGB, upright.

        Raises:
            ImageError: It cannot be read; names the file and the reason.
        """
        try:
            if not isinstance(self._open, Where):
                return open_image(self._open())
            here, self._fetched = self._fetched or self._open, None
            image, digest = here.open()
            if digest is not None:
                self.__dict__.setdefault("digest", digest)
            return image
        except DiffeatError:
            raise
        except Exception as error:  # whatever a reader of one's own runs into
            raise ImageError(f"{self.name}: cannot be opened ({type(error).__name__}: {error}).") from error

    @cached_property
    def size(self) -> tuple[int, int]:
        """(width, height) of :attr:`image`, known when that was let go of."""
        return self.image.size

    def let_go(self) -> None:
        """Forget the pixels of a file once what is read of them is made; whoever asks for them opens it again."""
        if self.is_file and self.size:
            self.__dict__.pop("image", None)

    def fetch(self) -> None:
        """Read what has to be read in order (the next frame of a video, the next row of a table, whatever a function of
        a caller's own does), so that any thread can open the picture. Raises as :attr:`image`.
        """
        if not isinstance(self._open, Where):
            _ = self.image
        elif "image" not in self.__dict__ and self._open.in_order:
            self._fetched = self._open.fetch()

    @cached_property
    def key(self) -> str:
        """Hash of pixels; keys the noise, so that one picture gives the same features however it came. Two large ones
        that differ in few pixels may share it (see :func:`~diffeat.geometry.noise_key`)."""
        return noise_key(self.image)

    def levels(self, frame: Frame) -> UInt8[Tensor, "3 height width"]:
        """The grey levels of the model image in ``frame`` (see :meth:`Frame.levels`), made once."""
        if frame not in self._levels:
            self._levels[frame] = frame.levels(self.image)
        return self._levels[frame]

    def pixels(self, frame: Frame) -> Float[Tensor, "3 height width"]:
        """The model image in ``frame`` (see :meth:`Frame.pixels`)."""
        return frame.normalised(self.levels(frame)[None])[0]

    @property
    def bytes_held(self) -> int:
        """Of pixels that are kept by now. By these bytes pictures are grouped into calls, so noise is left out: whether
        it is there by now is a matter of time."""
        image = self.__dict__.get("image")
        fetched = self._fetched.bytes_held if self._fetched is not None else 0
        opened = 0 if image is None else 3 * image.width * image.height
        return fetched + opened + sum(levels.nbytes for levels in self._levels.values())

    @cached_property
    def digest(self) -> str:
        """Hash of the file, or of the pixels where there is no file. A file is hashed while it is read, or read to be
        hashed."""
        if self._digest is not None:
            return self._digest() if callable(self._digest) else self._digest
        known = self._open.digest() if isinstance(self._open, Where) else None
        if known is not None:
            return known
        return self.key if math.prod(self.size) <= KEYED else pixel_digest(self.image)

    @property
    def stamp(self) -> str | None:
        """Changes when the file may have changed, without reading it; ``None`` where that cannot be told."""
        return self._open.stamp() if isinstance(self._open, Where) else None

    def check(self) -> None:
        """Raise what opening it would, as far as that can be told without reading it."""
        if isinstance(self._open, Where):
            self._open.check()

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name != "image"}
        return kept | {"_levels": {}, "_fetched": None, "noise": {}}

    def told(self, text: str | None) -> Picture:
        """The same picture with another text; what it holds by now is shared, what it opens later is not."""
        other = Picture(self.name, self._open, text=text, digest=self._digest)
        other.apart, other._levels = self.apart, dict(self._levels)
        other.__dict__.update({k: v for k, v in self.__dict__.items() if k in ("image", "size", "key", "digest")})
        return other


def model_images(
    pictures: Sequence[Picture], frames: Sequence[Frame], device: torch.device
) -> Float[Tensor, "b 3 height width"]:
    """The model images of pictures in frames of one model size, as a batch on a device."""
    levels = [picture.levels(frame) for picture, frame in zip(pictures, frames, strict=True)]
    if len({frame.load for frame in frames}) == 1:
        return frames[0].normalised(moved(torch.stack(levels), device))
    each = zip(levels, frames, strict=True)
    return torch.cat([frame.normalised(moved(values[None], device)) for values, frame in each])


def legible(name: str) -> str:
    """A name as stores and reports can hold it: bytes that are not UTF-8 as ``\\xe9``.

    Example:
        >>> print(legible("caf\\udce9.png"))
        caf\\xe9.png
    """
    return _NOT_UNICODE.sub(lambda match: printable(match[0]), name)


#: A path, a URL, a PIL image, an array ``(H, W)`` or ``(H, W, C)``, the bytes of a file or an open file (see
#: :func:`diffeat.geometry.open_image`), a float tensor ``(3, H, W)`` in [0, 1], or a :class:`Picture`.
ImageLike: TypeAlias = str | PathLike[str] | Image.Image | np.ndarray | bytes | IO[bytes] | Tensor | Picture


def several(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    """One after the other: a picture alone, or those of a list, a generator, a batch of tensors ``(B, 3, H, W)``, or of
    any path or URL (:mod:`diffeat.features.places.look`): a folder, a glob, a tar, a table, a video … A path where
    nothing is found stands for a picture that cannot be read.
    """
    for image in [images] if _alone(images) else images:  # pyright: ignore[reportGeneralTypeIssues]
        if isinstance(image, Tensor) and image.ndim == 4:
            yield from image
        elif isinstance(image, (str, PathLike)):
            yield from (Picture(f.path, f.where, text=f.text) for f in look(image) if isinstance(f, Found))
        else:
            yield image  # pyright: ignore[reportReturnType]


def count(images: ImageLike | Iterable[ImageLike]) -> int | None:
    """How many pictures :func:`several` gives, where that can be told without reading any."""
    return sum(1 for _ in several(images)) if _alone(images) or isinstance(images, Sequence) else None


def _alone(images: object) -> bool:
    return (
        not isinstance(images, Iterable)
        or isinstance(images, (str, bytes, bytearray, np.ndarray, Tensor))
        or hasattr(images, "read")
    )


def _same(image: Image.Image) -> Image.Image:
    return image


def _array(tensor: Tensor) -> np.ndarray:
    """Bytes (H, W, 3) of a float tensor (3, H, W) in [0, 1]."""
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.is_floating_point():
        raise ImageError(
            f"A {str(tensor.dtype).removeprefix('torch.')} tensor of shape {tuple(tensor.shape)} is not a picture: "
            "float (3, H, W), or (B, 3, H, W) for several, in [0, 1] is wanted."
        )
    low, high = (float(v) for v in tensor.detach().aminmax())
    if not (low >= -1e-6 and high <= 1 + 1e-6):
        raise ImageError(
            f"A tensor must lie in [0, 1] to be a picture, this one in [{low:.4g}, {high:.4g}]. From [-1, 1]: "
            "(tensor + 1) / 2."
        )
    return (tensor.detach().float().clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
