"""What a recipe says about the size of the model's image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from diffeat.errors import InvalidValueError, did_you_mean, shown
from diffeat.geometry.frame import FILTERS, Filter, Frame

Mode = Literal["squash", "pad", "keep"]
Rounding = Literal["down", "nearest", "up"]
_ROUNDINGS = ("down", "nearest", "up")


@dataclass(frozen=True)
class FrameSpec:
    """How a picture of any size becomes an image that the model takes.

    ======== ================================================== =========================================
     mode     what happens                                       as in
    ======== ================================================== =========================================
     squash   resized to ``size``, the aspect ratio is lost      DIFT (bicubic), Hyperfeatures (bilinear)
     pad      resized to fit in ``size``, centred, rest filled   GeoAware-SC (lanczos)
     keep     one factor, each side rounded to a multiple        DiTF (``longer=640``), DIFT (``round="down"``)
    ======== ================================================== =========================================

    Attributes:
        mode: See the table.
        size: Model size (width, height), or one number for a square; ``None``: the model's own (squash, pad).
        shorter: Pixels of the shorter side (keep). With neither this nor ``longer``: the picture's own size.
        longer: Pixels of the longer side (keep).
        multiple: Sides are multiples of this and of what the model itself asks for.
        round: Which multiple (keep): the nearest, the one below or the one above. Never below one multiple.
        filter: Pillow's resampling filter; or ``opencv-bilinear``, OpenCV's, which does not smooth what it shrinks.
        fill: Grey level 0…255 around a padded picture; 0 is black.
        load: Size (width, height), or one number, to which Pillow squashes the picture first; its values are then
            interpolated bilinearly to ``size`` (squash), as published Hyperfeatures do (``load: 224, size: 512``).
    """

    mode: Mode = "squash"
    size: tuple[int, int] | int | None = None
    shorter: int | None = None
    longer: int | None = None
    multiple: int = 1
    round: Rounding = "nearest"
    filter: Filter = "bicubic"
    fill: int = 0
    load: tuple[int, int] | int | None = None

    def __post_init__(self) -> None:
        modes = ("squash", "pad", "keep")
        if self.mode not in modes:
            raise InvalidValueError(f"No frame mode {self.mode!r}. {did_you_mean(str(self.mode), modes)}")
        if self.filter not in FILTERS:
            raise InvalidValueError(f"No resize filter {self.filter!r}. {did_you_mean(str(self.filter), FILTERS)}")
        if self.round not in _ROUNDINGS:
            raise InvalidValueError(f"No rounding {shown(self.round)}. {did_you_mean(str(self.round), _ROUNDINGS)}")
        if self.mode == "keep":
            if self.size is not None:
                raise InvalidValueError(
                    "Mode 'keep' takes shorter= or longer=, not size=. A fixed size needs 'squash' or 'pad'."
                )
            if self.shorter is not None and self.longer is not None:
                raise InvalidValueError("Give shorter= or longer=, not both.")
        elif self.round != "nearest":
            raise InvalidValueError(f"round= belongs to mode 'keep', not to {self.mode!r}.")
        elif self.shorter is not None or self.longer is not None:
            raise InvalidValueError(
                f"Mode {self.mode!r} takes size=, not shorter= or longer=; those belong to mode 'keep'."
            )
        for name in ("size", "load"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, _both_sides(name, value))
        if self.load is not None and self.mode != "squash":
            raise InvalidValueError(f"load= belongs to mode 'squash', not to {self.mode!r}.")
        for name in ("shorter", "longer"):
            _check_length(name, getattr(self, name), optional=True)
        _check_length("multiple", self.multiple)
        if not (_is_int(self.fill) and 0 <= self.fill <= 255):
            raise InvalidValueError(f"fill is a grey level from 0 to 255, got {self.fill!r}.")

    def frame(self, original: tuple[int, int], multiple: int = 1, default_size: tuple[int, int] | None = None) -> Frame:
        """The frame of one picture.

        Args:
            original: The picture's (width, height).
            multiple: The model's image sides must be multiples of this.
            default_size: The model's own (width, height), for a spec that names no size.

        Raises:
            InvalidValueError: A side is not a multiple (nearest valid sizes are named), or no size is known.

        Example:
            >>> frame = FrameSpec("pad", size=512).frame((640, 480))
            >>> frame.content  # left, top, width, height
            (0, 64, 512, 384)
        """
        _check_size("The picture's size", original)
        step = math.lcm(self.multiple, multiple)
        width, height = original
        if self.mode == "keep":
            asked = self.longer or self.shorter
            side = max(original) if self.longer else min(original)
            sides = (_steps(n, asked or side, side, step, self.round) for n in original)
            model = (next(sides), next(sides))
            return Frame(original, model, (0, 0, *model), self.filter, self.fill)
        model = self.size or default_size
        if model is None:
            raise InvalidValueError(f"Mode {self.mode!r} needs a size: give size=(width, height) or one number.")
        assert not isinstance(model, int)
        if model[0] % step or model[1] % step:
            raise InvalidValueError(
                f"The model's image sides must be multiples of {step}, got {model[0]}×{model[1]}. "
                f"{_nearest(model, step)}"
            )
        if self.mode == "squash":
            load = None if isinstance(self.load, int) else self.load
            return Frame(original, model, (0, 0, *model), self.filter, self.fill, load)
        scale = min(model[0] / width, model[1] / height)
        inner = (
            min(model[0], max(1, round(width * scale))),
            min(model[1], max(1, round(height * scale))),
        )
        corner = ((model[0] - inner[0]) // 2, (model[1] - inner[1]) // 2)
        return Frame(original, model, (*corner, *inner), self.filter, self.fill)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, only those that differ from the defaults, and always the mode."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        default = asdict(FrameSpec())
        return {k: v for k, v in plain.items() if k == "mode" or v != default[k]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FrameSpec:
        """The spec that :meth:`to_dict` described."""
        known = set(cls.__dataclass_fields__)
        for name in data:
            if name not in known:
                raise InvalidValueError(f"A frame has no field {name!r}. {did_you_mean(str(name), sorted(known))}")
        return cls(**data)


def _steps(length: int, asked: int, side: int, step: int, how: Rounding) -> int:
    """``length · asked / side`` in whole steps, at least one; down and up exactly, nearest as DiTF computes it."""
    if how == "nearest":
        return max(step, round(length * (asked / side) / step) * step)
    count = length * asked // (side * step) if how == "down" else -(-length * asked // (side * step))
    return max(1, count) * step


def _nearest(size: Sequence[int], step: int) -> str:
    below = [max(step, side // step * step) for side in size]
    above = [-(-side // step) * step for side in size]
    choices = dict.fromkeys([tuple(below), tuple(above)])
    return "Nearest valid: " + " or ".join(f"{w}×{h}" for w, h in choices) + "."


def _both_sides(name: str, value: object) -> tuple[int, int]:
    if isinstance(value, str) or not isinstance(value, (int, Sequence)):
        raise InvalidValueError(f"{name} is (width, height) or one number, in pixels, got {value!r}.")
    size = (value, value) if isinstance(value, int) else tuple(value)
    _check_size(name, size)
    return size[0], size[1]


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_length(name: str, value: object, optional: bool = False) -> None:
    if value is None and optional:
        return
    if not (isinstance(value, int) and _is_int(value) and value >= 1):
        raise InvalidValueError(f"{name} is a whole number of pixels from 1, got {shown(value)}.")


def _check_size(name: str, size: Sequence[Any]) -> None:
    if len(size) != 2 or not all(_is_int(side) and side >= 1 for side in size):
        raise InvalidValueError(f"{name} must be (width, height) in whole pixels from 1, got {shown(tuple(size))}.")
