"""The report of a selection: every activation with its numbers, its picture and its verdict; how the set grew."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from diffeat.files import new_folder, write_files
from diffeat.report.page import Page
from diffeat.report.selection_figures import PROPERTIES, growth_svg, properties_svg, redundancy_svg
from diffeat.studies.selection.observations import observations
from diffeat.studies.selection.score import Score
from diffeat.studies.selection.search import Selection

_THUMBNAIL, _CARD = 48, 168
#: What is written beside the recipe.
FILES = ("selection.json", "selection.html")


def write_selection(selection: Selection, recipe_file: Path, folder: Path, *, force: bool = False) -> Path:
    """Write the recipe, ``selection.json`` and ``selection.html``; returns the page."""
    new_folder(folder, FILES, force=force)
    selection.recipe.save(recipe_file, force=force)
    contents = json.dumps(to_json(selection), indent=1), to_html(selection)
    return write_files(folder, FILES, contents, force=force)


def to_json(selection: Selection) -> dict[str, Any]:
    return {
        "recipe": selection.recipe.content(),
        "settings": _settings(selection),
        "activations": [
            p.values()
            | {
                "kept": selection.verdicts[p.id].kept,
                "reasons": [list(r) for r in selection.verdicts[p.id].reasons],
                "scores": {n: _numbers(s) for n, s in selection.singles.get(p.id, {}).items()},
            }
            for p in selection.measurement.properties
        ],
        "skipped": selection.measurement.skipped,
        "steps": [
            {name: getattr(s, name) for name in ("added", "channels", "depth", "combined", "alike", "rivals")}
            | {"scores": {n: _numbers(score) for n, score in s.scores.items()}}
            for s in selection.steps
        ],
    }


def to_html(selection: Selection) -> str:
    measurement, last = selection.measurement, selection.steps[-1]
    settings = measurement.settings
    kept = sum(v.kept for v in selection.verdicts.values())
    page = Page(
        f"Activations of {settings['model']}",
        f"{settings['pictures']} pictures, {settings['draws']} draws at t = {settings['timestep']:g}, "
        f"{settings['size'][0]}×{settings['size'][1]} pixels, {settings['precision']}; "
        f"rules {selection.settings.rules}",
    )
    page.text(f"{len(last.ids)} of {len(measurement.properties)} activations, {last.channels} channels", "big")
    page.text(
        f"{kept} candidates passed the rules; the set needs {last.depth:.0%} of the denoiser's work and stays within "
        f"{selection.settings.budget} channels."
    )
    page.cards(_cards(selection))
    page.heading("How the set grew")
    page.table(*selection.table())
    page.drawings(
        [
            (growth_svg(selection), "Score over the best single candidate, mean over tasks, against channels."),
            (redundancy_svg(selection), "What candidates say alike (CKA), in order of execution; lines: the set."),
        ]
    )
    page.heading("The recipe")
    page.code(selection.recipe.to_yaml())
    page.heading("All activations")
    page.text(
        "The set, then candidates from the best down, then what the rules left out. Click a column to sort.", "soft"
    )
    page.rich_table(*_table(selection), marked=len(last.ids))
    page.heading("Properties")
    page.bullets(observations(selection.measurement))
    page.drawing(
        properties_svg(selection),
        "Every activation in order of execution. Dotted: where a rule begins; some rules are for some kinds only.",
        full=True,
    )
    if measurement.skipped:
        page.heading("Not measured")
        reasons = Counter(measurement.skipped.values())
        page.bullets([f"{count} activations: {reason}" for reason, count in reasons.items()])
    return page.html()


def _settings(selection: Selection) -> dict[str, Any]:
    asked = selection.settings
    chosen = {"rules": str(asked.rules), "tasks": list(selection.tasks), "seed": asked.seed, "most": asked.most}
    return chosen | {"budget": asked.budget, **selection.measurement.settings}


def _numbers(score: Score) -> dict[str, Any]:
    return {"value": score.value, "interval": list(score.interval())}


def _cards(selection: Selection) -> list[tuple[Image.Image, str, str]]:
    """The picture and what the set sees in it: picture, title, caption."""
    measurement = selection.measurement
    picture = measurement.picture.copy()
    picture.thumbnail((_CARD, _CARD))
    cards = [(picture, "the picture", "as the model sees it")]
    for k, step in enumerate(selection.steps, 1):
        p = measurement[step.added]
        caption = f"{p.kind}, {p.channels} channels on {p.grid[0]}×{p.grid[1]} · noise {p.measured.noise:.0%}"
        cards.append((_enlarged(measurement.thumbnails[p.id], _CARD), f"{k}\u00a0{p.id}", caption))
    return cards


def _table(selection: Selection) -> tuple[list[str], list[list[str | Image.Image]]]:
    tasks = selection.tasks
    header = ["activation", "picture", *tasks, "verdict", "channels", "work", *(name for _, name, _, _ in PROPERTIES)]
    last = selection.steps[-1].ids
    properties = {p.id: p for p in selection.measurement.properties}
    kept = [id for id in properties if selection.verdicts[id].kept and id not in last]
    total = {id: sum(s.value for s in scores.values()) for id, scores in selection.singles.items()}
    kept.sort(key=lambda id: -total.get(id, 0))
    rest = [id for id in properties if not selection.verdicts[id].kept]
    rows: list[list[str | Image.Image]] = []
    for p in (properties[id] for id in (*last, *kept, *rest)):
        verdict, values, scores = selection.verdicts[p.id], p.values(), selection.singles.get(p.id, {})
        said = f"chosen {last.index(p.id) + 1}" if p.id in last else "candidate" if verdict.kept else str(verdict)
        rows.append(
            [
                f"{p.id}\n{p.kind}, {p.grid[0]}×{p.grid[1]}, {p.stage}",
                _enlarged(selection.measurement.thumbnails[p.id], _THUMBNAIL),
                *(f"{scores[t].value:.1f}" if t in scores else "" for t in tasks),
                said,
                str(p.channels),
                f"{p.depth:.0%}",
                *("" if values[field] is None else form.format(values[field]) for field, _, form, _ in PROPERTIES),
            ]
        )
    return header, rows


def _enlarged(colours: np.ndarray, side: int) -> Image.Image:
    return ImageOps.contain(Image.fromarray(colours), (side, side), Image.Resampling.NEAREST)
