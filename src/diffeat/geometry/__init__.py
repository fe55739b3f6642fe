"""Pixels to pixels: opening pictures, and the frame between a photo, the model's image and a grid.

What computes loads on first use, so that the command line can name the datasets at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diffeat.geometry.digest import file_digest, noise_key, pixel_digest
from diffeat.geometry.files import FoundImages, find_images
from diffeat.geometry.images import open_image

if TYPE_CHECKING:
    from diffeat.geometry.frame import Frame, sample_grid
    from diffeat.geometry.pixels import to_image
    from diffeat.geometry.spec import FrameSpec

_HOMES = {"Frame": "frame", "FrameSpec": "spec", "sample_grid": "frame", "to_image": "pixels"}

__all__ = [
    "FoundImages",
    "Frame",
    "FrameSpec",
    "file_digest",
    "find_images",
    "noise_key",
    "open_image",
    "pixel_digest",
    "sample_grid",
    "to_image",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"diffeat.geometry.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'diffeat.geometry' has no attribute {name!r}")
