"""The report of a dense head's training: its number, curves, numbers of classes, and pictures as they are predicted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffeat.files import write_files
from diffeat.report.hyperfeatures import training_svg
from diffeat.report.labels import in_a_row
from diffeat.report.page import REPORT, Page, markdown_report, markdown_table, write_numbers
from diffeat.report.predictions import target_picture
from diffeat.tasks.predictors.evaluate import Scored
from diffeat.tasks.predictors.folder import TRAINING
from diffeat.tasks.predictors.scores import Scores
from diffeat.training.heads.train import Trained
from diffeat.training.loop import LOG, read_log


def write_training(trained: Trained, *, force: bool = False) -> Path:
    """Write ``report.json``, ``report.md`` and ``report.html`` beside the training's log; returns the page."""
    folder, predictor, scored = trained.folder / TRAINING, trained.predictor, trained.scored
    scores = trained.scores
    recipe = predictor.source.recipe
    title = f"{recipe.name}: {predictor.facts.target}"
    rows = read_log(folder / LOG)
    page = Page(title, f"recipe {recipe.hash[:12]}")
    if scores is not None:
        page.text(str(scores), "big")
    page.bullets(trained.notes)
    page.heading("Training")
    seconds, waited = (sum(float(row[name]) for row in rows) for name in ("seconds", "waited"))
    share = waited / max(seconds, 1e-9)
    page.drawing(
        training_svg(rows, "" if scores is None else f"{scores.quoted} of the validation pictures"),
        f"{len(rows)} steps in {seconds:.0f} s, {share:.0%} of it waiting for data; kept: step {trained.step}",
    )
    tables = []
    if scored is not None:
        page.heading("Validation")
        for picture, caption in _shown(scored):
            page.picture(picture, caption)
        page.table(*scored.table())
        tables = [markdown_table(*scored.table(), sums_up=True)]
    page.heading("Levels")
    page.code(str(getattr(getattr(predictor.head, "network", None), "layout", "")))
    data = {
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "step": trained.step,
        "seconds": seconds,
        "waited": share,
        **(_numbers(scores) if scores is not None else {}),
        "notes": list(trained.notes),
        "losses": list(trained.losses),
    }
    text = markdown_report(title, tables, ([str(scores)] if scores is not None else []) + list(trained.notes))
    return write_files(folder, REPORT, [json.dumps(data, indent=1), text, page.html()], force=force)


def write_scored(scored: Scored, folder: str | Path, *, force: bool = False) -> Path:
    """Write ``report.json``, ``report.md`` and ``report.html`` of a head's scores; returns the page."""
    title = f"{scored.recipe}: {scored.dataset} {scored.split}".rstrip()
    counted = {"split": scored.split, "pictures": len(scored.scores.sums), "protocol": scored.protocol}
    data, told = counted | _numbers(scored.scores), str(scored).splitlines()
    number = str(scored.scores)
    return write_numbers(
        scored, folder, number, data, _shown(scored), title=title, told=told, sums_up=True, force=force
    )


def _shown(scored: Scored) -> Iterator[tuple[Image.Image, str]]:
    """Picture, truth and prediction side by side."""
    for prediction, known in scored.shown:
        found = np.asarray(prediction.values)
        maps = (target_picture(values, prediction.legend.colours, found) for values in (known, found))
        panels = in_a_row([prediction.image, *maps], prediction.image.size)
        yield panels, f"{Path(prediction.name).name}: picture, truth, prediction"


def _numbers(scores: Scores) -> dict[str, Any]:
    header, rows = scores.table()
    return {
        "value": scores.value,
        "interval": [None if end != end else end for end in scores.interval()],
        "quoted": scores.quoted,
        "numbers": {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows},
    }
