"""Predictions on disk: what each target is written as, a row of scores, a contact sheet and a page; and samples of a
dataset, drawn likewise."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffeat.datasets.coding import Colour
from diffeat.datasets.labelled import MaskDataset, MaskSample
from diffeat.datasets.measured import TargetDataset
from diffeat.errors import DiffeatError
from diffeat.geometry import open_image
from diffeat.report.page import Page, encoded, sheet
from diffeat.tasks.predictors.predictor import Prediction, Predictor
from diffeat.tasks.predictors.target import Legend
from diffeat.viz import heat_overlay

_COVER = 0.6
#: Pictures on a page, and the side of one on the contact sheet.
SHOWN, _CELL, _GAP, _COLUMNS = 24, 240, 6, 4
#: Height of a sample, and how many stand in a row.
_TALL, _ROW = 160, 3


@dataclass(frozen=True)
class Drawn:
    """A prediction as it is written: contents by the folder they go into, and their ending; overlay and numbers."""

    files: Mapping[tuple[str, str], bytes]
    overlay: Image.Image
    row: dict[str, Any]


def drawn(prediction: Prediction) -> Drawn:
    """The files of a prediction, by its target."""
    row: dict[str, Any] = {"picture": prediction.name, "size": list(prediction.image.size)}
    files, overlay, numbers = DRAWERS[prediction.target.name](prediction)
    if prediction.uncertainty is not None and prediction.target.of_pixels:
        values = np.sort(prediction.uncertainty.ravel())[::-1]
        worst_tenth = values[: len(values) // 10 or len(values)]
        numbers |= {"uncertainty": round(float(worst_tenth.mean()), 6)}
        heat = heat_overlay(prediction.image, torch.from_numpy(prediction.uncertainty), low=0.0)
        files |= {("uncertainty", ".jpg"): encoded(heat, "JPEG", quality=88)}
    if prediction.target.of_pixels:
        files |= {("overlays", ".jpg"): encoded(overlay, "JPEG", quality=90, subsampling=0)}
    return Drawn(files, overlay, row | numbers)


def _labels(prediction: Prediction) -> tuple[dict, Image.Image, dict[str, Any]]:
    labels = np.asarray(prediction.values)
    numbers: dict[str, Any] = {"classes": {name: round(share, 6) for name, share in prediction.shares.items()}}
    if prediction.confidence is not None:
        numbers["confidence"] = round(float(prediction.confidence.mean()), 6)
    mask = encoded(palette_picture(labels, prediction.legend), "PNG", optimize=True)
    return {("masks", ".png"): mask}, coloured(prediction.image, labels, prediction.legend), numbers


def _classes(prediction: Prediction) -> tuple[dict, Image.Image, dict[str, Any]]:
    number = int(prediction.values)
    numbers: dict[str, Any] = {"class": prediction.legend.classes[number]}
    if prediction.confidence is not None:
        numbers["confidence"] = round(float(prediction.confidence), 6)
    numbers["probabilities"] = {name: round(share, 6) for name, share in prediction.shares.items()}
    return {}, prediction.image, numbers


def _depth(prediction: Prediction) -> tuple[dict, Image.Image, dict[str, Any]]:
    values = np.asarray(prediction.values, np.float32)
    numbers = {"least": float(values.min()), "median": float(np.median(values)), "greatest": float(values.max())}
    return {("depth", ".npy"): _array(values)}, target_picture(values), numbers


def _normals(prediction: Prediction) -> tuple[dict, Image.Image, dict[str, Any]]:
    values = np.asarray(prediction.values, np.float32)
    return {("normals", ".npy"): _array(values)}, target_picture(values), {}


#: How a target is written: files, overlay and numbers of a prediction. Adding a target: a line here.
DRAWERS: dict[str, Callable[[Prediction], tuple[dict, Image.Image, dict[str, Any]]]] = {
    "labels": _labels,
    "classes": _classes,
    "depth": _depth,
    "normals": _normals,
}


def target_picture(values: NDArray, colours: Sequence[Colour] = (), like: NDArray | None = None) -> Image.Image:
    """What is known of pixels, white where nothing is: labels in their colours, normals (3, H, W) as (n + 1) / 2;
    depth from near to far, in its own range or in that of another.
    """
    import matplotlib

    values = values[0] if values.ndim == 3 and len(values) == 1 else values
    if not np.issubdtype(values.dtype, np.floating):
        table = np.full((256, 3), 255, np.uint8)
        table[: len(colours)] = colours
        return Image.fromarray(table[values])
    if values.ndim == 3:
        known, shown = ~np.isnan(values[0]), (values.transpose(1, 2, 0) + 1) * 127.5
    else:
        known, of = ~np.isnan(values), values if like is None else like
        low, high = np.percentile(of[~np.isnan(of)], [1, 99]) if not np.isnan(of).all() else (0.0, 1.0)
        shown = 255 * matplotlib.colormaps["Spectral_r"]((values - low) / max(high - low, 1e-12))[..., :3]
    return Image.fromarray(np.where(known[..., None], np.rint(shown).clip(0, 255), 255).astype(np.uint8))


def palette_picture(labels: NDArray, legend: Legend) -> Image.Image:
    """Labels as a picture with a palette; 16-bit grey where there are more than a palette holds."""
    if len(legend.classes) > 255:
        return Image.fromarray(labels.astype(np.uint16))
    table = np.zeros((256, 3), np.uint8)
    table[: len(legend.colours)] = legend.colours
    if 0 <= legend.void < 256:
        table[legend.void] = 255
    picture = Image.fromarray(labels.astype(np.uint8), mode="P")
    picture.putpalette(table.tobytes())
    return picture


def coloured(image: Image.Image, labels: NDArray, legend: Legend) -> Image.Image:
    """Labels over a faint picture, with bright outlines; a class whose colour is black leaves the picture bare."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    grey = 0.4 * pixels + 0.6 * pixels.mean(-1, keepdims=True)
    colours = np.array(legend.colours, dtype=np.float32).reshape(-1, 3)[labels]
    tinted = colours.any(-1, keepdims=True)
    mixed = np.where(tinted, (1 - _COVER) * grey + _COVER * colours, 0.85 * grey)
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    mixed[edge] = 255
    return Image.fromarray(mixed.round().clip(0, 255).astype(np.uint8))


def contact_sheet(pairs: Sequence[tuple[Image.Image, Image.Image]]) -> Image.Image:
    """Pictures, each beside what was predicted, in rows."""
    cells = []
    for image, overlay in pairs:
        scale = _CELL / max(image.size)
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        cells.append(sheet([[p.convert("RGB").resize(size, Image.Resampling.LANCZOS) for p in (image, overlay)]], 2))
    columns = max(1, _COLUMNS // 2)
    return sheet([cells[k : k + columns] for k in range(0, len(cells), columns)], _GAP)


def samples_picture(data: MaskDataset | TargetDataset, count: int = 9) -> Image.Image:
    """``count`` samples at even steps, three in a row; those that cannot be read are left out. Void is white."""
    tiles, colours = [], data.colours if isinstance(data, MaskDataset) else ()
    for sample in data.limited(count):
        with suppress(DiffeatError):
            photo = open_image(sample.image)
            values = sample.labels(len(colours)) if isinstance(sample, MaskSample) else sample.target()
            shown = target_picture(values, colours)
            width = max(1, round(photo.width * _TALL / photo.height))
            enlarged = shown.resize((width, _TALL), Image.Resampling.NEAREST)
            tiles.append(sheet([[photo.resize((width, _TALL)), enlarged]], 0))
    return sheet([tiles[i : i + _ROW] for i in range(0, len(tiles), _ROW)], _GAP)


def predictions_page(predictor: Predictor, rows: Sequence[dict[str, Any]], sheet: Image.Image | None, how: str) -> str:
    recipe = predictor.source.recipe
    page = Page(f"{len(rows)} predictions of {predictor.facts.target}", f"recipe {recipe.name} ({recipe.hash[:12]})")
    page.text(how, "soft")
    page.bullets(predictor.facts.notes)
    if sheet is not None:
        page.picture(sheet, f"The first {min(SHOWN, len(rows))}: the picture, and what was predicted")
    legend = predictor.legend
    if predictor.target.discrete:
        page.heading("Classes")
        pairs = zip(legend.classes, legend.colours, strict=True)
        swatches = [(Image.new("RGB", (48, 24), colour), name, "") for name, colour in pairs]
        page.cards(swatches)
    page.heading("Pictures")
    page.table(["picture", "prediction", "confidence", "uncertainty"], [_line(row) for row in rows[:1000]])
    return page.html()


def _line(row: dict[str, Any]) -> list[str]:
    shares = sorted(row.get("classes", {}).items(), key=lambda item: -item[1])[:4]
    told = row.get("class") or ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares)
    if "median" in row:
        told = f"{row['least']:.3g} to {row['greatest']:.3g}, median {row['median']:.3g}"
    return [row["picture"], told, *(f"{row[k]:.3f}" if k in row else "" for k in ("confidence", "uncertainty"))]


def _array(values: NDArray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()
