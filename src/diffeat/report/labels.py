"""Reports of segmentation from few labels, of words and parts, and of classification."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.datasets.labelled import IGNORE
from diffeat.geometry import open_image
from diffeat.report.page import sheet, write_numbers
from diffeat.tasks.classification import Classification
from diffeat.tasks.masks import MaskScores
from diffeat.tasks.segmentation.evaluate import Example, Segmentation
from diffeat.viz import heat_overlay

_HEIGHT, _WIDEST, _GAP = 160, 640, 8


def write_segmentation(result: Segmentation, folder: str | Path, *, force: bool = False) -> Path:
    """Write ``report.json``, ``report.md`` and ``report.html``; returns the page."""
    data = {
        "classifier": result.options.classifier,
        "miou": result.value,
        "std": result.std,
        "splits": [
            {
                "miou": value,
                "uncertainty": split.unsure,
                "absent": list(split.absent),
                "train": [s.image.as_posix() for s in split.train],
                "test": [s.image.as_posix() for s in split.test],
            }
            for value, split in zip(result.values, result.splits, strict=True)
        ],
        "iou": {n: None if v != v else float(v) for n, v in zip(result.classes, result.iou, strict=True)},
        "pixel_accuracy": result.accuracy,
        "options": result.options.model_dump(mode="json"),
    }
    spread = f" ± {result.std:.1f}" if len(result.splits) > 1 else ""
    pictures = [(example_picture(e), e.sample.image.name) for e in result.examples]
    number = f"mIoU {result.value:.1f}{spread}"
    return write_numbers(result, folder, number, data, pictures, told=[str(result)], force=force)


def write_classification(result: Classification, folder: str | Path, *, force: bool = False) -> Path:
    """Write ``report.json``, ``report.md`` and ``report.html``; returns the page."""
    data = {
        "accuracy": result.value,
        "per_class": result.per_class,
        "strength": result.strength,
        "trained_on": result.trained_on,
    }
    number = f"accuracy {result.value:.1f} {result.interval()}"
    return write_numbers(result, folder, number, data, told=[str(result)], force=force)


def write_masks(result: MaskScores, folder: str | Path, *, force: bool = False) -> Path:
    """Write ``report.json``, ``report.md`` and ``report.html`` of words or parts; returns the page."""
    data = {
        "miou": result.value,
        "boundary_f": result.boundary,
        "boundary_interval": list(result.boundary_interval()),
        "iou": {n: None if v != v else float(v) for n, v in zip(result.classes, result.iou, strict=True)},
        "protocol": result.what,
        "options": result.options.model_dump(mode="json"),
    }
    number = f"mIoU {result.value:.1f} {result.interval()}, F of outlines {result.boundary:.1f}"
    return write_numbers(result, folder, number, data, told=[str(result)], force=force)


def example_picture(example: Example) -> Image.Image:
    """Picture, truth, prediction and, where there is one, the uncertainty, side by side."""
    photo = open_image(example.sample.image)
    size = photo.size
    photo = photo.resize(example.truth.shape[::-1])  # of another size where labels were resized
    panels = [photo, coloured(example.truth, photo), coloured(example.labelling.labels.numpy(), photo)]
    if example.labelling.uncertainty is not None:
        panels.append(heat_overlay(photo, example.labelling.uncertainty))
    return in_a_row(panels, size)


def in_a_row(panels: Sequence[Image.Image], size: tuple[int, int]) -> Image.Image:
    """Pictures side by side in the proportions of a size, of one height unless that were very wide."""
    scale = min(_HEIGHT / size[1], _WIDEST / size[0])
    width, height = (max(1, round(side * scale)) for side in size)
    return sheet([[panel.resize((width, height), Image.Resampling.BICUBIC) for panel in panels]], _GAP)


def coloured(labels: np.ndarray, photo: Image.Image) -> Image.Image:
    """Labels as colours over the faint picture; the background stays grey, ignored pixels white."""
    import matplotlib

    order = [*range(0, 20, 2), *range(1, 20, 2)]
    table = 255 * np.array([matplotlib.colormaps["tab20"](i)[:3] for i in order if i not in (14, 15)])  # but no greys
    grey = np.asarray(photo.convert("L"), dtype=float)[..., None].repeat(3, 2) * 0.6 + 60
    colours = table[(labels - 1) % len(table)]
    mixed = np.where((labels > 0)[..., None], 0.25 * grey + 0.75 * colours, grey)
    mixed[labels == IGNORE] = 255
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))
