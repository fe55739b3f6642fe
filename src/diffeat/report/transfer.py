"""What is transferred, drawn: points, boxes and masks over a picture; a page of all pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diffeat.datasets.coding import colour_map
from diffeat.features import Picture
from diffeat.files import write_files
from diffeat.report.page import Page
from diffeat.report.predictions import coloured, encoded, palette_picture
from diffeat.tasks.predictors.target import Legend
from diffeat.tasks.transfer import Annotation, Transferred

#: Objects of masks by their numbers.
NUMBERS = Legend(tuple(map(str, range(256))), colour_map(256))


def marked(image: Image.Image, annotation: Annotation) -> Image.Image:
    """The picture that was annotated, with its marks."""
    points = {name: (at, True) for name, at in annotation.points.items()}
    return _drawn(image, annotation.mask, points, {name: (box, 1.0) for name, box in annotation.boxes.items()})


def found(image: Image.Image, result: Transferred) -> Image.Image:
    """Another picture with what was found; points whose match is not mutual are hollow."""
    points = {name: (point.at, point.mutual) for name, point in result.points.items()}
    boxes = {name: (box.at, box.confidence) for name, box in result.boxes.items() if box.at is not None}
    return _drawn(image, result.mask, points, boxes)


def row(name: str, image: Image.Image, result: Transferred) -> dict[str, Any]:
    numbers: dict[str, Any] = {"picture": name, "size": list(image.size)}
    if result.points:
        numbers["points"] = {
            key: {
                "at": [round(v, 3) for v in p.at],
                "confidence": round(p.confidence, 4),
                "mutual": p.mutual,
                "cosine": round(p.similarity, 4),
                "missed_by": round(p.back, 2),
            }
            for key, p in result.points.items()
        }
    if result.boxes:
        numbers["boxes"] = {
            key: {"at": None if b.at is None else [round(v, 2) for v in b.at], "confidence": round(b.confidence, 4)}
            for key, b in result.boxes.items()
        }
    if result.mask is not None and result.confidence is not None:
        labels = {int(n): result.mask == n for n in np.unique(result.mask) if n}
        numbers["labels"] = {
            str(n): {"share": round(float(m.mean()), 5), "confidence": round(float(result.confidence[m].mean()), 4)}
            for n, m in labels.items()
        }
    return numbers


def transfer_page(
    title: str, first: Image.Image, overlays: Sequence[tuple[str, Image.Image]], told: Sequence[str]
) -> str:
    page = Page(title)
    page.bullets(told)
    page.picture(first, "As it was marked")
    page.cards([(_small(picture), name, "") for name, picture in overlays])
    return page.html()


def write_video(folder: Path, frames: Sequence[Picture], masks: Iterable[NDArray[np.uint8]], told: str) -> int:
    """Write masks and overlays of a video's frames as they come, and a page; returns how many."""
    shown = set(np.linspace(0, len(frames) - 1, 24).round().astype(int).tolist())
    overlays, count = [], 0
    for count, (frame, mask) in enumerate(zip(frames, masks, strict=True), 1):
        overlay, stem = coloured(frame.image, mask, NUMBERS), f"{count - 1:05d}"
        write_files(folder / "masks", [f"{stem}.png"], [encoded(palette_picture(mask, NUMBERS), "PNG")], force=True)
        write_files(folder / "overlays", [f"{stem}.jpg"], [encoded(overlay, "JPEG", quality=90)], force=True)
        if count - 1 in shown:
            overlays.append((frame.name, _small(overlay)))
    page = Page(f"{count} frames", told)
    page.cards([(picture, name, "") for name, picture in overlays])
    write_files(folder, ["report.html"], [page.html()], force=True)
    return count


def _small(picture: Image.Image) -> Image.Image:
    picture = picture.copy()
    picture.thumbnail((360, 360))
    return picture


def _drawn(
    image: Image.Image,
    mask: np.ndarray | None,
    points: Mapping[str, tuple[tuple[float, float], bool]],
    boxes: Mapping[str, tuple[Any, float]],
) -> Image.Image:
    picture = image.convert("RGB") if mask is None else coloured(image, mask, NUMBERS)
    picture = picture.copy()
    draw = ImageDraw.Draw(picture)
    width = max(2, max(image.size) // 200)
    hues = [c for c in NUMBERS.colours if max(c) > 127]
    for k, (box, confidence) in enumerate(boxes.values()):
        left, top, right, bottom = (float(v) for v in box)
        thick = width if confidence > 0.2 else 1
        draw.rectangle((left, top, right, bottom), outline=hues[k % len(hues)], width=thick)
    for k, ((x, y), mutual) in enumerate(points.values()):
        r = 2.0 * width
        colour = hues[k % len(hues)]
        inner, outer = (colour, "white") if mutual else (None, colour)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=inner, outline=outer, width=max(1, width // 2))
    return picture
