"""Maps of one picture that say how much each place belongs to each of several things, and the masks they make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from diffeat.geometry import Frame
from diffeat.notebook import Displayed, Html, notes, pictures
from diffeat.refinement.upsampling import upsampler
from diffeat.viz import heat_overlay


def of_one_colour(picture: Image.Image) -> tuple[str, ...]:
    """A note on maps of a picture in which nothing can be told apart.

    Example:
        >>> of_one_colour(Image.new("RGB", (4, 4), "grey"))
        ('the picture has one colour: what is found in it is noise',)
    """
    plain = picture.convert("RGB").getcolors(1) is not None
    return ("the picture has one colour: what is found in it is noise",) if plain else ()


@dataclass(frozen=True, repr=False)
class ScoredMaps(Displayed):
    """
    Attributes:
        names: Of the things, words or numbers of parts.
        maps: (k, h, w) over the model's image, more where a place belongs to the thing.
        frame: Where the picture lies in the model's image.
        image: The picture's name.
        notes: How the maps were made and what must be known of them.
        background: Places where no map is above this belong to nothing; ``None``: every place belongs to something.
        layers: Maps (k, h, w) of single layers by name, to be looked at.
    """

    names: tuple[str, ...]
    maps: Float[Tensor, "k h w"]
    frame: Frame
    image: str = ""
    notes: tuple[str, ...] = ()
    background: float | None = None
    layers: Mapping[str, Tensor] = field(default_factory=dict)

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        return self.image, {"maps": ", ".join(self.names), "grid": "×".join(map(str, self.maps.shape[1:]))}

    def _details(self) -> Iterator[Html]:
        blank = Image.new("RGB", (128, max(1, round(128 * self.maps.shape[1] / self.maps.shape[2]))), "grey")
        yield pictures((name, heat_overlay(blank, m)) for name, m in zip(self.names, self.maps, strict=True))
        yield notes(self.notes)

    def at_pixels(self, picture: Image.Image, by: str = "bilinear") -> Float[Tensor, "k height width"]:
        """The maps at the pixels of the upright picture.

        Args:
            by: An upsampler (:data:`diffeat.refinement.UPSAMPLERS`).

        Raises:
            UnknownNameError: There is no such upsampler.
        """
        return upsampler(by)(self.maps.float().cpu(), self.frame, picture)

    def labels(self, picture: Image.Image, by: str = "bilinear") -> Int[Tensor, "height width"]:
        """The thing of every pixel from 1, in the order of the names; 0 where it belongs to nothing."""
        return self.labels_of(self.at_pixels(picture, by))

    def labels_of(self, heights: Float[Tensor, "k height width"]) -> Int[Tensor, "height width"]:
        """The same, of the maps at the pixels."""
        values, best = heights.max(0)
        if self.background is None:
            return best + 1
        return torch.where(values > self.background, best + 1, 0)
