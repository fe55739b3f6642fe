"""The report of label propagation: ``report.json``, ``report.md`` and a page with frames and masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.datasets.coding import colour_map
from diffeat.datasets.davis import Video, read_mask
from diffeat.files import write_files
from diffeat.geometry import open_image
from diffeat.report.page import REPORT, Page, markdown_report, markdown_table
from diffeat.tasks.propagation.evaluate import Propagation


def write_propagation(result: Propagation, folder: str | Path, *, force: bool = False) -> Path:
    """Write the report; returns the HTML page. Frames are shown where the predicted masks were written."""
    header, rows = result.table()
    title, settings = f"{result.dataset} · {result.recipe}: label propagation", str(result.options)
    objects = [{"video": s.video, "object": s.number, "J": s.j, "F": s.f} for s in result.scores]
    data = {"settings": settings, "interval": list(result.interval()), "objects": objects, "notes": list(result.notes)}
    page = Page(title, settings)
    page.text(f"J&F {result.value:.1f} {result.interval()}", "big")
    page.table(header, rows)
    page.bullets(result.notes)
    for video in result.videos if result.options.masks else ():
        page.heading(video.name)
        masks = Path(result.options.masks or "") / video.name
        page.picture(strip(video, masks), "Above predicted, below annotated; the first frame was given.")
    text = markdown_report(title, [markdown_table(header, rows)], [settings, *result.notes])
    return write_files(folder, REPORT, [json.dumps(data, indent=1), text, page.html()], force=force)


def strip(video: Video, masks: Path, count: int = 6, height: int = 150) -> Image.Image:
    """Some frames side by side with predicted and with annotated masks."""
    chosen = np.unique(np.linspace(0, len(video.frames) - 1, count).round().astype(int))
    columns = []
    for k in chosen:
        picture = open_image(video.frames[k])
        pair = [masks / f"{video.frames[k].stem}.png", video.masks[k]]
        columns.append([_overlay(picture, None if m is None else read_mask(m), height) for m in pair])
    width = sum(c[0].width + 4 for c in columns)
    sheet = Image.new("RGB", (width, 2 * height + 4), "white")
    x = 0
    for column in columns:
        for row, cell in enumerate(column):
            sheet.paste(cell, (x, row * (height + 4)))
        x += column[0].width + 4
    return sheet


def _overlay(picture: Image.Image, mask: np.ndarray | None, height: int) -> Image.Image:
    pixels = np.asarray(picture, dtype=np.float32)
    if mask is not None:
        colour = np.array(colour_map(), np.float32)[mask]
        pixels = np.where(mask[..., None] > 0, 0.35 * pixels + 0.65 * np.maximum(colour, 30), 0.75 * pixels)
    cell = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    return cell.resize((max(1, round(cell.width * height / cell.height)), height), Image.Resampling.LANCZOS)
