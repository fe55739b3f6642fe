"""What features must beat: raw colours, and a classical dense descriptor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from diffeat.extraction.kinds import Baseline
from diffeat.features import FeatureMap, Group, Picture, Streams
from diffeat.geometry import Frame, FrameSpec


class BaselineSource(Streams[FeatureMap]):
    """Dense features without a model."""

    fingerprint = ""
    default: ClassVar[Baseline]

    def __init__(self, recipe: Baseline | None = None) -> None:
        self.recipe = recipe or self.default
        self._spec = FrameSpec("keep", longer=self.recipe.longer, multiple=self.recipe.stride)

    @property
    def precision(self) -> str:
        """In which all are computed."""
        return "float32"

    def group(self, picture: Picture) -> Group:
        """Every picture alone."""
        return Group(picture.name)

    def read(self, pictures: Sequence[Picture]) -> Iterator[FeatureMap]:
        """Features of pictures; one map of the baseline's name."""
        for picture in pictures:
            frame = self._spec.frame(picture.size)
            provenance = {"recipe": self.recipe.name, "recipe_hash": self.recipe.hash, "prompt": ""}
            tensor = self._features(picture.image, frame)
            yield FeatureMap({self.recipe.name: tensor}, frame, picture.name, picture.digest, provenance)

    @abstractmethod
    def _features(self, image: Image.Image, frame: Frame) -> torch.Tensor:
        """Features ``(c, h, w)`` of one picture."""


class RgbPatches(BaselineSource):
    """The colours around every cell: patches of twice the stride, as they are in [-1, 1]."""

    default = Baseline()

    def _features(self, image: Image.Image, frame: Frame) -> torch.Tensor:
        side, pad = 2 * self.recipe.stride, self.recipe.stride // 2
        pixels = F.pad(frame.pixels(image)[None], (pad, side - self.recipe.stride - pad) * 2, mode="replicate")
        height, width = frame.model[1] // self.recipe.stride, frame.model[0] // self.recipe.stride
        return F.unfold(pixels, side, stride=self.recipe.stride)[0].reshape(-1, height, width)


class Daisy(BaselineSource):
    """DAISY of scikit-image at every cell (Tola et al. 2010): gradient orientations around 17 places, 136 numbers.

    Cells are an odd number of pixels wide, so that a descriptor sits on the middle pixel of each.
    """

    default = Baseline(name="DAISY", stride=3)

    def _features(self, image: Image.Image, frame: Frame) -> torch.Tensor:
        from skimage.feature import daisy

        grey = frame.pixels(image).add(1).div(2).mean(0).numpy()
        before = self.recipe.radius - (self.recipe.stride - 1) // 2
        border = (before, before + self.recipe.stride)
        found = daisy(
            np.pad(grey, (border, border), mode="symmetric"),
            step=self.recipe.stride,
            radius=self.recipe.radius,
            rings=2,
            histograms=8,
            orientations=8,
            normalization="l2",
        )
        height, width = frame.model[1] // self.recipe.stride, frame.model[0] // self.recipe.stride
        return torch.from_numpy(np.asarray(found)[:height, :width]).permute(2, 0, 1).float().contiguous()


#: By the name of the recipe.
BASELINES: dict[str, type[BaselineSource]] = {"RGB patches": RgbPatches, "DAISY": Daisy}
