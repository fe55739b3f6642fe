"""The report of any result: one writer for each kind, of ``report.json``, ``report.md`` and ``report.html``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from math import isfinite
from pathlib import Path

import numpy as np
from PIL import Image

from diffeat.datasets.davis import Video, read_mask
from diffeat.evaluation.result import Result
from diffeat.geometry import open_image
from diffeat.report.correspondence import write_report
from diffeat.report.heads import write_scored
from diffeat.report.labels import write_classification, write_masks, write_segmentation
from diffeat.report.page import sheet, write_numbers
from diffeat.report.predictions import coloured
from diffeat.report.transfer import NUMBERS
from diffeat.tasks.classification import Classification
from diffeat.tasks.correspondence.evaluate import Evaluation
from diffeat.tasks.homography.evaluate import THRESHOLDS, Homographies
from diffeat.tasks.masks import MaskScores
from diffeat.tasks.predictors.evaluate import Scored
from diffeat.tasks.propagation import Propagation
from diffeat.tasks.segmentation import Segmentation

_FRAMES, _HEIGHT = 6, 150


def write_homographies(result: Homographies, folder: str | Path, *, force: bool = False) -> Path:
    """Write the report of homographies; returns the page."""
    data = {
        "options": result.options.model_dump(mode="json"),
        "accuracy": {t: result.accuracy(t) for t in THRESHOLDS},
        "pairs": [asdict(s) | {"error": s.error if isfinite(s.error) else None} for s in result.scores],
        "notes": [str(result.options), *result.notes],
    }
    title = f"{result.dataset} · {result.recipe}: homography accuracy"
    number, told = f"within 3 px {result.value:.1f} {result.interval()}", [str(result.options)]
    return write_numbers(result, folder, number, data, title=title, told=told, sums_up=True, force=force)


def write_propagation(result: Propagation, folder: str | Path, *, force: bool = False) -> Path:
    """Write the report of label propagation; returns the page. Frames are shown where predicted masks were written."""
    title, settings = f"{result.dataset} · {result.recipe}: label propagation", str(result.options)
    objects = [{"video": s.video, "object": s.number, "J": s.j, "F": s.f} for s in result.scores]
    below = "above predicted, below annotated; the first frame was given"
    masks = Path(result.options.masks or "")
    videos = result.videos if result.options.masks else ()
    pictures = ((_frames(video, masks / video.name), f"{video.name}: {below}") for video in videos)
    number, data = f"J&F {result.value:.1f} {result.interval()}", {"settings": settings, "objects": objects}
    return write_numbers(result, folder, number, data, pictures, title=title, told=[settings], force=force)


def _frames(video: Video, masks: Path) -> Image.Image:
    """Some frames side by side with predicted, and below with annotated masks."""
    chosen = np.unique(np.linspace(0, len(video.frames) - 1, _FRAMES).round().astype(int))
    pictures = [open_image(video.frames[k]) for k in chosen]
    predicted = [masks / f"{video.frames[k].stem}.png" for k in chosen]
    annotated = [video.masks[k] for k in chosen]
    return sheet([list(map(_overlay, pictures, each)) for each in (predicted, annotated)], 4)


def _overlay(picture: Image.Image, mask: Path | None) -> Image.Image:
    cell = picture if mask is None else coloured(picture, read_mask(mask), NUMBERS)
    return cell.resize((max(1, round(cell.width * _HEIGHT / cell.height)), _HEIGHT), Image.Resampling.LANCZOS)


WRITERS: dict[type, Callable[..., Path]] = {
    Evaluation: write_report,
    Homographies: write_homographies,
    Segmentation: write_segmentation,
    Classification: write_classification,
    Propagation: write_propagation,
    Scored: write_scored,
    MaskScores: write_masks,
}


def write_result(result: Result, folder: str | Path, *, force: bool = False) -> Path:
    """Write the report of a result into a folder, which is made if missing; returns the page.

    Raises:
        InvalidValueError: There is one already, and it may not be replaced (``force``).
    """
    return WRITERS[type(result)](result, folder, force=force)
