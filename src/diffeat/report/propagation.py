"""The report of label propagation: ``propagation.json``, ``propagation.md`` and a page with frames and masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.datasets.davis import Video, object_colours, read_mask
from diffeat.geometry import open_image
from diffeat.report.page import Page, markdown_table
from diffeat.tasks.propagation.evaluate import VideoScore


def write_propagation(
    scores: Sequence[VideoScore], videos: Sequence[Video], masks: Path, folder: Path, title: str, settings: str
) -> Path:
    """Write the report; ``masks`` holds the predicted ones. Returns the HTML page."""
    folder.mkdir(parents=True, exist_ok=True)
    header, rows = score_rows(scores)
    data = [{"video": s.video, "object": s.number, "J": s.j, "F": s.f} for s in scores]
    (folder / "propagation.json").write_text(json.dumps({"settings": settings, "objects": data}, indent=1))
    (folder / "propagation.md").write_text(f"# {title}\n\n{markdown_table(header, rows)}\n\n- {settings}\n")
    page = Page(title, settings)
    page.text(f"J&F {rows[-1][1]}", "big")
    page.table(header, rows)
    for video in videos:
        page.heading(video.name)
        page.picture(strip(video, masks / video.name), "Above predicted, below annotated; the first frame was given.")
    file = folder / "propagation.html"
    file.write_text(page.html(), encoding="utf-8")
    return file


def score_rows(scores: Sequence[VideoScore]) -> tuple[list[str], list[list[str]]]:
    """A row for each object, and the mean of all."""
    header = ["object", "J&F", "J mean", "J recall", "J decay", "F mean", "F recall", "F decay"]

    def numbers(some: Sequence[VideoScore]) -> list[str]:
        parts = [np.mean([s.jf for s in some])]
        parts += [np.mean([kind[k] for kind in (s.j for s in some)]) for k in ("mean", "recall", "decay")]
        parts += [np.mean([kind[k] for kind in (s.f for s in some)]) for k in ("mean", "recall", "decay")]
        return [f"{100 * v:.1f}" for v in parts]

    rows = [[f"{s.video} {s.number}", *numbers([s])] for s in scores]
    return header, [*rows, ["all objects", *numbers(scores)]]


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
        colour = object_colours()[mask].astype(np.float32)
        pixels = np.where(mask[..., None] > 0, 0.35 * pixels + 0.65 * np.maximum(colour, 30), 0.75 * pixels)
    cell = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    return cell.resize((max(1, round(cell.width * height / cell.height)), height), Image.Resampling.LANCZOS)
