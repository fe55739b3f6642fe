"""Pixels to pixels: opening pictures, and the frame between a photo, the model's image and a grid."""

from diffeat.geometry.digest import file_digest, pixel_digest
from diffeat.geometry.files import FoundImages, find_images
from diffeat.geometry.frame import Frame, sample_grid
from diffeat.geometry.images import open_image
from diffeat.geometry.pixels import to_image
from diffeat.geometry.spec import FrameSpec

__all__ = [
    "FoundImages",
    "Frame",
    "FrameSpec",
    "file_digest",
    "find_images",
    "open_image",
    "pixel_digest",
    "sample_grid",
    "to_image",
]
