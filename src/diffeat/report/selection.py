"""The report of a selection: every activation with its numbers, its picture and its verdict; how the set grew."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffeat.files import new_folder, write_files
from diffeat.report.page import Page
from diffeat.studies.selection.observations import observations
from diffeat.studies.selection.score import Score
from diffeat.studies.selection.search import Selection

_NUMBERS = (
    ("noise", "noise", "{:.2f}"),
    ("noise_low", "low-band noise", "{:.2f}"),
    ("resolution", "resolution", "{:.1f}"),
    ("granularity", "granularity", "{:.2f}"),
    ("halving", "halving loss", "{:.2f}"),
    ("position", "position", "{:.2f}"),
    ("concentration", "concentration", "{:.2f}"),
    ("kurtosis", "kurtosis", "{:.1f}"),
    ("dead", "dead", "{:.2f}"),
    ("massive", "massive", "{:d}"),
)
_THUMBNAIL = 72


#: What is written beside the recipe.
FILES = ("selection.json", "selection.html")


def write_selection(selection: Selection, recipe_file: Path, folder: Path, *, force: bool = False) -> Path:
    """Write the recipe, ``selection.json`` and ``selection.html``; returns the page."""
    new_folder(folder, FILES, force=force)
    selection.recipe.save(recipe_file, force=force)
    contents = json.dumps(to_json(selection), indent=1), to_html(selection)
    return write_files(folder, FILES, contents, force=force)


def to_json(selection: Selection) -> dict[str, Any]:
    """All numbers as plain JSON data."""
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
            {
                "added": s.added,
                "channels": s.channels,
                "depth": s.depth,
                "combined": s.combined,
                "alike": s.alike,
                "rivals": list(s.rivals),
                "scores": {n: _numbers(score) for n, score in s.scores.items()},
            }
            for s in selection.steps
        ],
    }


def to_html(selection: Selection) -> str:
    """A self-contained page."""
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
    page.code(selection.recipe.to_yaml())
    page.heading("How the set grew")
    page.table(*selection.table())
    page.drawing(
        cost_svg(selection), "Dots: single candidates. Line: the set as it grew. Score over the best single one."
    )
    page.heading("Where the noise is")
    page.drawing(noise_svg(selection), "Share of variance that follows the noise draw, in order of execution.")
    page.bullets(observations(selection.measurement))
    page.heading("All activations")
    page.text("Click a column to sort by it.", "soft")
    page.rich_table(*_table(selection))
    if measurement.skipped:
        page.heading("Not measured")
        reasons: dict[str, int] = {}
        for reason in measurement.skipped.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        page.bullets([f"{count} activations: {reason}" for reason, count in reasons.items()])
    return page.html()


def cost_svg(selection: Selection) -> str:
    """Channels against combined score."""
    from matplotlib.figure import Figure

    channels = {p.id: p.channels for p in selection.measurement.properties}
    names = list(next(iter(selection.singles.values())))
    top = {n: max(1e-9, *(s[n].value for s in selection.singles.values())) for n in names}
    singles = [(channels[id], np.mean([s[n].value / top[n] for n in names])) for id, s in selection.singles.items()]
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*zip(*singles, strict=True), s=16, color="#9aa4b2", label="alone")
    path = [(s.channels, s.combined) for s in selection.steps]
    axes.plot(*zip(*path, strict=True), color="#1f5fbf", marker="o", label="the set")
    axes.axvline(selection.settings.budget, color="#c0392b", linewidth=1, linestyle=":", label="budget")
    axes.set(xlabel="channels", ylabel="score / best single", xlim=(0, None))
    axes.legend(frameon=False)
    axes.grid(alpha=0.25)
    return _svg(figure)


def noise_svg(selection: Selection) -> str:
    """Noise of every activation in order of execution, by stage."""
    from matplotlib.figure import Figure

    properties = selection.measurement.properties
    figure = Figure(figsize=(7.6, 3.2), layout="constrained")
    axes = figure.subplots()
    for kept, colour, label in ((False, "#c9ced6", "rejected"), (True, "#1f5fbf", "candidate")):
        chosen = [(i, p.measured.noise) for i, p in enumerate(properties) if selection.verdicts[p.id].kept == kept]
        if chosen:
            axes.scatter(*zip(*chosen, strict=True), s=14, color=colour, label=label, zorder=2 + kept)
    starts = [0] + [i for i in range(1, len(properties)) if properties[i].stage != properties[i - 1].stage]
    for k, start in enumerate(starts):
        axes.axvline(start - 0.5, color="#e3e6ea", linewidth=1, zorder=0)
        stop = starts[k + 1] if k + 1 < len(starts) else len(properties)
        if stop - start > len(properties) / 40:
            axes.text(
                (start + stop) / 2, 1.03, properties[start].stage, ha="center", va="bottom", fontsize=8, color="#667"
            )
    axes.set(ylabel="noise", ylim=(0, 1), xlim=(-1, len(properties)), xticks=[])
    axes.legend(frameon=False, loc="upper left")
    axes.grid(alpha=0.25, axis="y")
    return _svg(figure)


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _settings(selection: Selection) -> dict[str, Any]:
    asked = selection.settings
    chosen = {"rules": str(asked.rules), "tasks": list(selection.tasks), "seed": asked.seed, "most": asked.most}
    return chosen | {"budget": asked.budget, **selection.measurement.settings}


def _numbers(score: Score) -> dict[str, Any]:
    return {"value": score.value, "interval": list(score.interval())}


def _table(selection: Selection) -> tuple[list[str], list[list[Any]]]:
    tasks = list(next(iter(selection.singles.values())))
    last = selection.steps[-1].ids
    header = [
        "activation",
        "picture",
        "verdict",
        "kind",
        "channels",
        "grid",
        "work",
        *(n for _, n, _ in _NUMBERS),
        *tasks,
    ]
    rows = []
    for p in selection.measurement.properties:
        verdict = selection.verdicts[p.id]
        said = "chosen" if p.id in last else "candidate" if verdict.kept else str(verdict)
        values = p.values()
        numbers = [("" if values[field] is None else form.format(values[field])) for field, _, form in _NUMBERS]
        scores = selection.singles.get(p.id, {})
        rows.append(
            [
                p.id,
                _thumbnail(selection.measurement.thumbnails[p.id]),
                said,
                p.kind,
                str(p.channels),
                f"{p.grid[0]}×{p.grid[1]}",
                f"{p.depth:.0%}",
                *numbers,
                *(f"{scores[t].value:.1f}" if t in scores else "" for t in tasks),
            ]
        )
    return header, rows


def _thumbnail(colours: np.ndarray) -> Image.Image:
    height, width = colours.shape[:2]
    scale = _THUMBNAIL / max(height, width)
    return Image.fromarray(colours).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.NEAREST
    )
