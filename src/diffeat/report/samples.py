"""A picture of some samples of a dataset: photograph, and labels, depth or normals beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from PIL import Image

from diffeat.datasets.coding import Colour
from diffeat.datasets.labelled import IGNORE, MaskDataset, MaskSample
from diffeat.datasets.measured import TargetDataset, TargetSample
from diffeat.errors import DiffeatError
from diffeat.geometry import open_image
from diffeat.report.page import sheet

_HEIGHT, _GAP, _COLUMNS = 160, 6, 3


def samples_picture(data: MaskDataset | TargetDataset, count: int = 9) -> Image.Image:
    """``count`` samples at even steps, three in a row; those that cannot be read are left out. Void is white."""
    tiles, colours = [], data.colours if isinstance(data, MaskDataset) else ()
    for sample in data.limited(count):
        with suppress(DiffeatError):
            photo = open_image(sample.image)
            shown = _labels(sample, colours) if isinstance(sample, MaskSample) else _target(sample)
            width = max(1, round(photo.width * _HEIGHT / photo.height))
            enlarged = shown.resize((width, _HEIGHT), Image.Resampling.NEAREST)
            tiles.append(sheet([[photo.resize((width, _HEIGHT)), enlarged]], 0))
    return sheet([tiles[i : i + _COLUMNS] for i in range(0, len(tiles), _COLUMNS)], _GAP)


def _labels(sample: MaskSample, colours: Sequence[Colour]) -> Image.Image:
    table = np.full((IGNORE + 1, 3), 255, np.uint8)
    table[: len(colours)] = colours
    return Image.fromarray(table[sample.labels(len(colours))])


def _target(sample: TargetSample) -> Image.Image:
    target = sample.target()
    known = ~np.isnan(target if target.ndim == 2 else target[0])
    if target.ndim == 3:
        colours = (target.transpose(1, 2, 0) + 1) * 127.5
    else:
        import matplotlib

        low, high = (target[known].min(), target[known].max()) if known.any() else (0.0, 1.0)
        colours = 255 * matplotlib.colormaps["viridis"]((target - low) / max(high - low, 1e-9))[..., :3]
    return Image.fromarray(np.where(known[..., None], colours, 255).astype(np.uint8))
