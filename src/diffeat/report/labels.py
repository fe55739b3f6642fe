"""Reports of segmentation from few labels and of classification."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffeat.datasets.labelled import IGNORE, MaskSample
from diffeat.geometry import open_image
from diffeat.report.page import Page
from diffeat.tasks.classification import Classification
from diffeat.tasks.segmentation import Segmentation
from diffeat.tasks.segmentation.ensemble import Labelling
from diffeat.viz import heat_overlay

_HEIGHT, _GAP = 150, 8


@dataclass(frozen=True)
class Example:
    """A labelled test picture, to be shown."""

    sample: MaskSample
    truth: np.ndarray
    labelling: Labelling


def class_rows(found: Segmentation) -> tuple[list[str], list[list[str]]]:
    """Header and rows of IoU by class, for classes that occur."""
    rows = [[n, f"{v:.2f}"] for n, v in zip(found.classes, found.iou, strict=True) if v == v]
    return ["class", "IoU"], [*rows, ["**all**", f"{found.mean:.2f}"]]


def accuracy_rows(found: Classification) -> tuple[list[str], list[list[str]]]:
    """Header and rows of accuracy by class."""
    rows = [[n, f"{v:.2f}"] for n, v in found.per_class.items()]
    return ["class", "accuracy"], [*rows, ["**all**", f"{found.accuracy:.2f}"]]


def write_segmentation(found: Segmentation, folder: Path, examples: Sequence[Example] = ()) -> Path:
    """Write ``report.json`` and ``report.html``; returns the page."""
    low, high = found.interval()
    data = {
        "dataset": found.dataset, "recipe": found.recipe, "recipe_hash": found.recipe_hash,
        "classifier": found.classifier, "miou": found.mean, "std": found.std, "interval": [low, high],
        "splits": [
            {
                "miou": value, "uncertainty": split.unsure, "absent": list(split.absent),
                "train": [s.image.as_posix() for s in split.train], "test": [s.image.as_posix() for s in split.test],
            }
            for value, split in zip(found.values, found.splits, strict=True)
        ],
        "iou": {n: None if v != v else float(v) for n, v in zip(found.classes, found.iou, strict=True)},
        "pixel_accuracy": found.accuracy, "notes": list(found.notes), "settings": found.settings,
    }  # fmt: skip
    page = Page(f"{found.dataset} · {found.recipe}", f"recipe {found.recipe_hash[:12]}, {found.classifier}")
    page.text(f"mIoU {found.mean:.1f}" + (f" ± {found.std:.1f}" if len(found.splits) > 1 else ""), "big")
    page.text(str(found), "soft")
    if found.notes:
        page.bullets(found.notes)
    for example in examples:
        page.picture(example_picture(example), example.sample.image.name)
    header, rows = class_rows(found)
    page.heading("Classes")
    page.table(header, [[c.strip("*") for c in row] for row in rows])
    return _write(folder, data, page)


def write_classification(found: Classification, folder: Path) -> Path:
    """Write ``report.json`` and ``report.html``; returns the page."""
    low, high = found.interval()
    data = {
        "dataset": found.dataset, "recipe": found.recipe, "recipe_hash": found.recipe_hash,
        "accuracy": found.accuracy, "interval": [low, high], "per_class": found.per_class,
        "strength": found.strength, "trained_on": found.trained_on, "notes": list(found.notes),
    }  # fmt: skip
    page = Page(f"{found.dataset} · {found.recipe}", f"recipe {found.recipe_hash[:12]}")
    page.text(f"accuracy {found.accuracy:.1f} [{low:.1f}, {high:.1f}]", "big")
    page.text(str(found), "soft")
    if found.notes:
        page.bullets(found.notes)
    header, rows = accuracy_rows(found)
    page.table(header, [[c.strip("*") for c in row] for row in rows])
    return _write(folder, data, page)


def example_picture(example: Example) -> Image.Image:
    """Picture, truth, prediction and, where there is one, the uncertainty, side by side."""
    photo = open_image(example.sample.image)
    panels = [photo, _coloured(example.truth, photo), _coloured(example.labelling.labels.numpy(), photo)]
    if example.labelling.uncertainty is not None:
        panels.append(heat_overlay(photo, example.labelling.uncertainty))
    width = max(1, round(photo.width * _HEIGHT / photo.height))
    canvas = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, _HEIGHT), "white")
    for k, panel in enumerate(panels):
        canvas.paste(panel.resize((width, _HEIGHT), Image.Resampling.BICUBIC), (k * (width + _GAP), 0))
    return canvas


def _coloured(labels: np.ndarray, photo: Image.Image) -> Image.Image:
    """Labels as colours over the faint picture; the background stays grey, ignored pixels white."""
    import matplotlib

    order = [*range(0, 20, 2), *range(1, 20, 2)]
    table = 255 * np.array([matplotlib.colormaps["tab20"](i)[:3] for i in order if i not in (14, 15)])  # but no greys
    grey = np.asarray(photo.convert("L"), dtype=float)[..., None].repeat(3, 2) * 0.6 + 60
    colours = table[(labels - 1) % len(table)]
    mixed = np.where((labels > 0)[..., None], 0.25 * grey + 0.75 * colours, grey)
    mixed[labels == IGNORE] = 255
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def _write(folder: Path, data: dict[str, Any], page: Page) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    file = folder / "report.html"
    file.write_text(page.html(), encoding="utf-8")
    return file
