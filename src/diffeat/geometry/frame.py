r"""The frame: original picture ⟷ model image ⟷ feature grid.

Coordinates are continuous pixel indices (x, y): the centre of the top-left pixel is (0, 0), its outer corner
(-0.5, -0.5), as the keypoints of SPair-71k are read. Resizing n pixels to m maps pixel areas on pixel areas
(the half-pixel convention, PyTorch's ``align_corners=False``, Pillow's ``resize``):

.. math:: x' = (x + \tfrac12)\,\frac{m}{n} - \tfrac12

A picture of W₀×H₀ pixels fills the content box (left, top, w, h) of the model's W×H image, so a point goes
to ``x' = (x + ½)·w/W₀ − ½ + left``, and on a grid of g columns over the whole model image to
``(x' + ½)·g/W − ½``. Sizes are (width, height), grids are (rows, columns), as tensors are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from diffeat.errors import InvalidValueError, clipped

Filter = Literal["bicubic", "bilinear", "lanczos", "opencv-bilinear"]
#: Points (x, y): a tensor, or rows of numbers.
Points = Shaped[Tensor, "*n 2"] | Sequence[Any]
#: Pillow's, which look at more pixels the smaller the result; OpenCV's (``None``) looks at four, whatever the size.
FILTERS: dict[str, Image.Resampling | None] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "opencv-bilinear": None,
}


@dataclass(frozen=True)
class Frame:
    """Where one picture lies in the model's image; made by :meth:`FrameSpec.frame`.

    Attributes:
        original: The picture's (width, height).
        model: The model image's (width, height).
        content: The picture inside the model image: (left, top, width, height); all of it unless padded.
        filter: Pillow's resampling filter, or ``opencv-bilinear``.
        fill: Grey level 0…255 of the padding.
        load: Size (width, height) to which Pillow brings the picture first; from there the values are interpolated
            bilinearly (half-pixel centres, no antialiasing) to the model's size.
    """

    original: tuple[int, int]
    model: tuple[int, int]
    content: tuple[int, int, int, int]
    filter: Filter = "bicubic"
    fill: int = 0
    load: tuple[int, int] | None = None

    @property
    def scale(self) -> tuple[float, float]:
        """Model pixels per original pixel, along x and y."""
        return self.content[2] / self.original[0], self.content[3] / self.original[1]

    @property
    def padded(self) -> bool:
        """Whether part of the model image is padding."""
        return self.content != (0, 0, *self.model)

    def pixels(self, image: Image.Image) -> Float[Tensor, "3 height width"]:
        """The model image: grey levels as ``v / 127.5 - 1``, float32, from the size ``load`` on interpolated.

        Raises:
            InvalidValueError: The picture is not of this frame's original size, or not RGB.
        """
        return self.normalised(self.levels(image)[None])[0]

    def levels(self, image: Image.Image) -> UInt8[Tensor, "3 height width"]:
        """The grey levels of the model image as Pillow makes them; of the size ``load`` where there is one.

        Raises:
            InvalidValueError: The picture is not of this frame's original size, or not RGB.
        """
        if image.size != self.original:
            raise InvalidValueError(
                f"This frame is of a picture of {self.original[0]}×{self.original[1]} pixels, got one of "
                f"{image.size[0]}×{image.size[1]}. Make a frame for each picture's own size."
            )
        if image.mode != "RGB":
            raise InvalidValueError(f"An RGB picture is wanted, got mode {image.mode!r}. Open it with open_image.")
        left, top, width, height = self.content
        inner = _resized(image, self.load or (width, height), self.filter)
        if self.padded:
            canvas = Image.new("RGB", self.model, (self.fill,) * 3)
            canvas.paste(inner, (left, top))
            inner = canvas
        return torch.from_numpy(np.stack([np.asarray(band) for band in inner.split()]))  # faster than to permute

    def normalised(self, levels: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 height width"]:
        """What the model reads of grey levels, on their device: an accelerator is sent a quarter of the bytes."""
        scale = torch.full((), 127.5, device=levels.device)  # a tensor, since devices multiply by 1 / a number instead
        values = levels.float().div_(scale).sub_(1)
        if self.load is None:
            return values
        return F.interpolate(values, size=self.content[:1:-1], mode="bilinear", align_corners=False)

    def points_to_model(self, points: Points) -> Float[Tensor, "*n 2"]:
        """Points (x, y) of the original picture in model pixels."""
        return _affine(points, self.scale, self.content[:2])

    def points_to_original(self, points: Points) -> Float[Tensor, "*n 2"]:
        """Points (x, y) of the model image in original pixels."""
        return _affine_back(points, self.scale, self.content[:2])

    def points_to_grid(self, points: Points, grid: tuple[int, int]) -> Float[Tensor, "*n 2"]:
        """Points (x, y) of the original picture in cells of a (rows, columns) grid over the model image.

        Example:
            >>> frame = Frame(original=(640, 480), model=(512, 512), content=(0, 0, 512, 512))
            >>> frame.points_to_grid(torch.tensor([[-0.5, -0.5], [639.5, 479.5]]), (32, 32))  # the outer corners
            tensor([[-0.5000, -0.5000],
                    [31.5000, 31.5000]])
        """
        return _affine(self.points_to_model(points), self._grid_scale(grid), (0, 0))

    def points_from_grid(self, points: Points, grid: tuple[int, int]) -> Float[Tensor, "*n 2"]:
        """Points (x, y) in cells of a (rows, columns) grid over the model image, in original pixels."""
        return self.points_to_original(_affine_back(points, self._grid_scale(grid), (0, 0)))

    def content_cells(self, grid: tuple[int, int]) -> tuple[int, int, int, int]:
        """The cells of a (rows, columns) grid that the picture touches: (top, left, height, width).

        All of them unless the picture is padded. A store reads such a window on its own.
        """
        left, top, width, height = self.content
        (model_w, model_h), (rows, columns) = self.model, grid
        first_row, first_column = top * rows // model_h, left * columns // model_w
        last_row = -(-(top + height) * rows // model_h)
        last_column = -(-(left + width) * columns // model_w)
        return first_row, first_column, last_row - first_row, last_column - first_column

    def boxes_to_model(self, boxes: Shaped[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
        """Boxes (left, top, right, bottom) of the original picture in model pixels; corners are points."""
        return self.points_to_model(boxes.unflatten(-1, (2, 2))).flatten(-2)

    def boxes_to_original(self, boxes: Shaped[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
        """Boxes (left, top, right, bottom) of the model image in original pixels; corners are points."""
        return self.points_to_original(boxes.unflatten(-1, (2, 2))).flatten(-2)

    def map_to_original(
        self, values: Shaped[Tensor, "*c h w"], mode: Literal["bilinear", "nearest"] = "bilinear"
    ) -> Shaped[Tensor, "*c height width"]:
        """A map over the model image as one value for each original pixel; padding is left out.

        Every original pixel's centre is looked up in the grid (borders repeat). Without padding, bilinear
        equals ``F.interpolate(size=(H₀, W₀), mode="bilinear", align_corners=False)``.

        Args:
            values: Any grid over the whole model image; float for bilinear, any type for nearest.
            mode: ``"bilinear"`` or ``"nearest"`` (labels).
        """
        h, w = values.shape[-2:]
        width, height = self.original
        if mode == "bilinear" and not self.padded and values.is_floating_point():
            lead = values.shape[:-2]
            flat = values.reshape(1, -1, h, w)
            resized = F.interpolate(flat, size=(height, width), mode="bilinear", align_corners=False)
            return resized.reshape(*lead, height, width)
        left, top, inner_w, inner_h = self.content
        x = (torch.arange(width, dtype=torch.float64) + 0.5) * (inner_w / width) + left
        y = (torch.arange(height, dtype=torch.float64) + 0.5) * (inner_h / height) + top
        return sample_grid(values, y * (h / self.model[1]) - 0.5, x * (w / self.model[0]) - 0.5, mode)

    def map_from_original(
        self,
        values: Shaped[Tensor, "*c height width"],
        grid: tuple[int, int] | None = None,
        mode: Literal["bilinear", "nearest"] = "bilinear",
        fill: float = 0,
    ) -> Shaped[Tensor, "*c h w"]:
        """A map of the original picture, looked up at the centres of a grid over the model image.

        Args:
            values: One value for each original pixel; float for bilinear, any type for nearest.
            grid: (rows, columns); the model's pixels if not given.
            mode: ``"bilinear"`` or ``"nearest"`` (labels).
            fill: The value of cells whose centre lies in the padding.

        Raises:
            InvalidValueError: The map is not of the original size.
        """
        height, width = values.shape[-2:]
        if (width, height) != self.original:
            raise InvalidValueError(
                f"A map of {self.original[0]}×{self.original[1]} pixels is wanted, got {width}×{height}."
            )
        h, w = grid or self.model[::-1]
        left, top, inner_w, inner_h = self.content
        x = ((torch.arange(w, dtype=torch.float64) + 0.5) * (self.model[0] / w) - left) * (width / inner_w)
        y = ((torch.arange(h, dtype=torch.float64) + 0.5) * (self.model[1] / h) - top) * (height / inner_h)
        result = sample_grid(values, y - 0.5, x - 0.5, mode)
        if self.padded:
            outside = ((y < 0) | (y > height))[:, None] | ((x < 0) | (x > width))[None, :]
            result = result.masked_fill(outside.to(result.device), fill)
        return result

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "original": list(self.original),
            "model": list(self.model),
            "content": list(self.content),
            "filter": self.filter,
            "fill": self.fill,
            **({"load": list(self.load)} if self.load is not None else {}),
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Frame:
        """The frame that :meth:`to_dict` described."""
        left, top, width, height = data["content"]
        original_w, original_h = data["original"]
        model_w, model_h = data["model"]
        return cls(
            (original_w, original_h),
            (model_w, model_h),
            (left, top, width, height),
            data.get("filter", "bicubic"),
            data.get("fill", 0),
            tuple(data["load"]) if "load" in data else None,
        )

    def _grid_scale(self, grid: tuple[int, int]) -> tuple[float, float]:
        return grid[1] / self.model[0], grid[0] / self.model[1]


def _resized(image: Image.Image, size: tuple[int, int], filter: Filter) -> Image.Image:
    if image.size == size:
        return image
    if (resampling := FILTERS[filter]) is not None:
        return image.resize(size, resampling)
    values = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].to(torch.float32)
    values = F.interpolate(values, size=size[::-1], mode="bilinear", align_corners=False)[0]
    return Image.fromarray(values.round().to(torch.uint8).permute(1, 2, 0).numpy())


def _affine(points: Points, scale: tuple[float, float], offset: tuple[int, ...]) -> Tensor:
    points = _floats(points)
    return (points + 0.5) * points.new_tensor(scale) - 0.5 + points.new_tensor(offset)


def _affine_back(points: Points, scale: tuple[float, float], offset: tuple[int, ...]) -> Tensor:
    points = _floats(points)
    return (points - points.new_tensor(offset) + 0.5) / points.new_tensor(scale) - 0.5


def _floats(points: Points) -> Tensor:
    try:
        points = torch.as_tensor(points)
    except (TypeError, ValueError) as error:
        raise InvalidValueError(f"Points are rows (x, y) of numbers ({clipped(str(error))}).") from error
    if points.ndim == 0 or points.shape[-1] != 2:
        raise InvalidValueError(f"Points are rows (x, y), got the shape {tuple(points.shape)}.")
    return points if points.is_floating_point() else points.to(torch.float32)


def sample_grid(
    values: Shaped[Tensor, "*c h w"], y: Float[Tensor, " rows"], x: Float[Tensor, " columns"], mode: str
) -> Shaped[Tensor, "*c rows columns"]:
    """A map looked up at rows ``y`` × columns ``x`` (in cells; ``bilinear`` or ``nearest``); borders repeat."""
    if mode == "nearest":
        rows, columns = (
            torch.floor(at + 0.5).clamp(0, size - 1).long().to(values.device)
            for at, size in zip((y, x), values.shape[-2:], strict=True)
        )
        return values.index_select(-2, rows).index_select(-1, columns)
    if mode != "bilinear":
        raise InvalidValueError(f"No map mode {mode!r}. Choose one of: bilinear, nearest.")
    if not values.is_floating_point():
        raise InvalidValueError(f"Bilinear needs a float map, got {values.dtype}. Use mode='nearest' for labels.")
    for dim, at in ((-2, y), (-1, x)):
        size = values.shape[dim]
        at = at.clamp(0, size - 1)
        low = at.floor().clamp(max=max(size - 2, 0))
        share = (at - low).to(values.device, values.dtype)
        share = share.unsqueeze(-1) if dim == -2 else share
        low = low.long().to(values.device)
        high = (low + 1).clamp(max=size - 1)
        values = torch.lerp(values.index_select(dim, low), values.index_select(dim, high), share)
    return values
