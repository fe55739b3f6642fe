"""A picture of some samples of a dataset: photograph, and labels, depth or normals beside it."""

from __future__ import annotations

from contextlib import suppress

from PIL import Image

from diffeat.datasets.labelled import MaskDataset, MaskSample
from diffeat.datasets.measured import TargetDataset
from diffeat.errors import DiffeatError
from diffeat.geometry import open_image
from diffeat.report.page import sheet
from diffeat.report.predictions import target_picture

_HEIGHT, _GAP, _COLUMNS = 160, 6, 3


def samples_picture(data: MaskDataset | TargetDataset, count: int = 9) -> Image.Image:
    """``count`` samples at even steps, three in a row; those that cannot be read are left out. Void is white."""
    tiles, colours = [], data.colours if isinstance(data, MaskDataset) else ()
    for sample in data.limited(count):
        with suppress(DiffeatError):
            photo = open_image(sample.image)
            values = sample.labels(len(colours)) if isinstance(sample, MaskSample) else sample.target()
            shown = target_picture(values, colours)
            width = max(1, round(photo.width * _HEIGHT / photo.height))
            enlarged = shown.resize((width, _HEIGHT), Image.Resampling.NEAREST)
            tiles.append(sheet([[photo.resize((width, _HEIGHT)), enlarged]], 0))
    return sheet([tiles[i : i + _COLUMNS] for i in range(0, len(tiles), _COLUMNS)], _GAP)
