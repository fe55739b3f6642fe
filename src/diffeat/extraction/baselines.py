"""What features must beat: raw colours, and a classical dense descriptor."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from diffeat.errors import DiffeatError
from diffeat.features import FeatureMap
from diffeat.features.picture import Picture, load_picture
from diffeat.geometry import Frame, FrameSpec


@dataclass(frozen=True)
class BaselineRecipe:
    """Names a baseline and its settings."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    prompt: str = ""

    def content(self) -> dict[str, Any]:
        """The settings."""
        return {"baseline": self.name, **self.settings}

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of :meth:`content`."""
        return hashlib.sha256(json.dumps(self.content(), sort_keys=True).encode()).hexdigest()

    def text_for(self, prompt: str | None) -> str:
        """Always empty."""
        return ""


class _Baseline(ABC):
    """Dense features without a model, in the form of an extractor.

    Args:
        longer: Longer side of the picture they are computed on; its own size if not given.
        stride: Pixels per cell.
    """

    name = ""
    fingerprint = ""

    def __init__(self, longer: int | None = None, stride: int = 4) -> None:
        self.stride = stride
        self._spec = FrameSpec("keep", longer=longer, multiple=stride)
        self.recipe = BaselineRecipe(self.name, {"longer": longer, "stride": stride})

    def stream(self, images: Any, prompts: Any = None, *, on_error: Any = None) -> Iterator[FeatureMap]:
        """Features of pictures; texts are ignored."""
        for image in images:
            try:
                picture = image if isinstance(image, Picture) else load_picture(image, "")
            except DiffeatError as error:
                if on_error is None:
                    raise
                on_error(str(image), error)
                continue
            frame = self._spec.frame(picture.image.size)
            tensor = self._features(picture.image, frame)
            provenance = {"recipe": self.recipe.name, "recipe_hash": self.recipe.hash}
            yield FeatureMap({self.name: tensor}, frame, picture.name, picture.digest, provenance)

    @abstractmethod
    def _features(self, image: Image.Image, frame: Frame) -> torch.Tensor:
        """Features ``(c, h, w)`` of one picture."""


class RgbPatches(_Baseline):
    """The colours around every cell: patches of twice the stride, as they are in [-1, 1]."""

    name = "RGB patches"

    def _features(self, image: Image.Image, frame: Frame) -> torch.Tensor:
        side, pad = 2 * self.stride, self.stride // 2
        pixels = F.pad(frame.pixels(image)[None], (pad, side - self.stride - pad) * 2, mode="replicate")
        height, width = frame.model[1] // self.stride, frame.model[0] // self.stride
        return F.unfold(pixels, side, stride=self.stride)[0].reshape(-1, height, width)


class Daisy(_Baseline):
    """DAISY of scikit-image at every cell (Tola et al. 2010): gradient orientations around 17 places, 136 numbers.

    Cells are an odd number of pixels wide, so that a descriptor sits on the middle pixel of each.
    """

    name = "DAISY"

    def __init__(self, longer: int | None = None, stride: int = 3, radius: int = 12) -> None:
        super().__init__(longer, stride)
        self.radius = radius
        self.recipe = BaselineRecipe(self.name, {"longer": longer, "stride": stride, "radius": radius})

    def _features(self, image: Image.Image, frame: Frame) -> torch.Tensor:
        from skimage.feature import daisy

        grey = frame.pixels(image).add(1).div(2).mean(0).numpy()
        border = self.radius - (self.stride - 1) // 2
        found = daisy(
            np.pad(grey, ((border, border + self.stride), (border, border + self.stride)), mode="symmetric"),
            step=self.stride,
            radius=self.radius,
            rings=2,
            histograms=8,
            orientations=8,
            normalization="l2",
        )
        height, width = frame.model[1] // self.stride, frame.model[0] // self.stride
        return torch.from_numpy(np.asarray(found)[:height, :width]).permute(2, 0, 1).float().contiguous()
