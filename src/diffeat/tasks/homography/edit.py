"""An edit of one picture carried to another: matches, their homography, and the edit's layer warped by it.

The places that are matched are those below the layer, as long as both pictures choose each other; each is then found
among all pixels of the target. RANSAC takes the homography that most of them agree with.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffeat.ambient import neutral
from diffeat.errors import InvalidValueError
from diffeat.features import FeatureMap
from diffeat.tasks.correspondence.matching import Matches, match, mutual_matches
from diffeat.tasks.homography.estimate import find_homography, opencv


@dataclass(frozen=True)
class Edit:
    """An edit that was carried over.

    Attributes:
        layer: The warped layer, RGBA, of the target's size.
        homography: (3, 3), from pixel indices of the source to those of the target.
        matches: What it was estimated from.
        agree: Which of these agree with it.
    """

    layer: Image.Image = field(repr=False)
    homography: NDArray[np.floating] = field(repr=False)
    matches: Matches
    agree: NDArray[np.bool_] = field(repr=False)

    def on(self, picture: Image.Image) -> Image.Image:
        """The target picture with the layer on it."""
        return Image.alpha_composite(picture.convert("RGBA"), self.layer).convert("RGB")


def check_layer(layer: Image.Image, size: tuple[int, int]) -> None:
    """Refuse a layer that is no edit of a picture of this (width, height).

    Raises:
        InvalidValueError: It has another size, or is transparent or opaque everywhere.
    """
    if layer.size != size:
        sizes = ["×".join(map(str, s)) for s in (layer.size, size)]
        raise InvalidValueError(f"The layer has {sizes[0]} pixels, the picture that it was painted on {sizes[1]}.")
    opacity = np.asarray(layer.convert("RGBA"))[..., 3]
    if opacity.max() == 0 or opacity.min() == 255:
        what = "opaque" if opacity.max() else "transparent"
        raise InvalidValueError(f"The layer is {what} everywhere. Give a PNG with the edit alone.")


@neutral()
def propagate_edit(source: FeatureMap, target: FeatureMap, layer: Image.Image, *, everywhere: bool = False) -> Edit:
    """Carry an edit from one picture to another.

    Args:
        source: Features of the picture that was edited.
        target: Features of the other, by the same recipe.
        layer: The edit alone, transparent elsewhere; of the source picture's size.
        everywhere: Match the whole source, not only what lies below the layer.

    Raises:
        InvalidValueError: As :func:`check_layer`, or too few places agree.
        ModelError: OpenCV is not installed.
    """
    cv2 = opencv()
    check_layer(layer, source.frame.original)
    pixels = np.asarray(layer.convert("RGBA"), dtype=np.float32)
    shown = pixels[..., 3] > 0
    places = mutual_matches(source, target).source
    if not everywhere:
        columns, rows = places.round().long().T
        places = places[torch.from_numpy(shown)[rows.clamp(0, len(shown) - 1), columns.clamp(0, shown.shape[1] - 1)]]
    matches = match(source, target, places)
    cells = target.tensor.shape[:0:-1]
    half = max(side / cell / 2 for side, cell in zip(target.frame.original, cells, strict=True))
    homography, agree = find_homography(matches.source, matches.target, "ransac", within=max(3, half))
    if homography is None:
        hint = "" if everywhere else " Paint a larger layer, match the whole picture, or take a finer recipe."
        raise InvalidValueError(
            f"{len(matches)} places of the edit are found in the other picture; 4 must agree.{hint}"
        )
    pixels[..., :3] *= pixels[..., 3:] / 255  # colours of transparent pixels must not bleed
    warped = cv2.warpPerspective(pixels, homography, target.frame.original, flags=cv2.INTER_LINEAR)
    warped[..., :3] *= 255 / np.maximum(warped[..., 3:], 1e-6)
    return Edit(Image.fromarray(warped.clip(0, 255).round().astype(np.uint8)), homography, matches, agree)
