"""A picture as techniques see it, and the desk where they keep what they make once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from diffeat.backbones import Backbone

T = TypeVar("T")


@dataclass(frozen=True)
class Scene:
    """A picture as techniques see it.

    Attributes:
        key: Identifies its pixels.
        pixels: ``(3, h, w)`` in [-1, 1], at the model's size.
        text: The text it has without a prompt technique.
        name: File name, to look up captions.
        shown: What techniques are told about, where that is not the picture itself (the shuffled control).
    """

    key: str
    pixels: Tensor = field(repr=False)
    text: str = ""
    name: str = ""
    shown: Scene | None = None

    @property
    def seen(self) -> Scene:
        """The picture that techniques are told about."""
        return self.shown or self

    def image(self) -> Image.Image:
        """Its pixels, rounded to bytes."""
        from diffeat.geometry import to_image

        return to_image(self.pixels)


class Desk:
    """What techniques of a session loaded or computed, each thing once."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self._kept: dict[Hashable, Any] = {}
        self._pictures: dict[Hashable, Any] = {}

    def keep(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gave for this key, for the whole session."""
        return _once(self._kept, key, make)

    def of_picture(self, scene: Scene, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gave for this picture and key, until pictures are forgotten."""
        return _once(self._pictures, (scene.key, tuple(scene.pixels.shape), key), make)

    def forget_pictures(self) -> None:
        """Drop what was computed for pictures."""
        self._pictures = {}


def _once(place: dict[Hashable, Any], key: Hashable, make: Callable[[], T]) -> T:
    if key not in place:
        place[key] = make()
    return place[key]
