"""The report of GATE: ``gate.json``, ``gate.html`` (verdicts, intervals, pictures), ``gate.csv`` (all shifts)."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from diffeat.__about__ import __version__
from diffeat.files import write_files
from diffeat.geometry import to_image
from diffeat.report.page import Page, literal, svg_of
from diffeat.studies.content_shift.examples import Example
from diffeat.studies.content_shift.gating import GateResult
from diffeat.studies.content_shift.halving import SearchResult
from diffeat.studies.content_shift.meter import Stage
from diffeat.viz import pca_colours
from diffeat.viz.grid import draw_grid

_COLOURS = {"helps": "#1b8a5a", "hurts": "#c0392b", "harmless": "#5b6472", "cannot tell": "#c99a2e"}
_STAGES: dict[Stage, str] = {
    "img2img": "Img2Img at high strength",
    "operating": "estimate at the operating timestep",
    "features": "features at the operating timestep",
}
#: What is written of a gate, and of a search.
FILES = ("gate.json", "gate.csv", "gate.html")
SEARCH_FILES = ("recipe.yaml", "search.html")


def write_gate_report(
    result: GateResult, folder: str | Path, examples: Sequence[Example] = (), *, force: bool = False
) -> Path:
    """Write the report, with pictures and their reconstructions (``examples_of``); returns the HTML page."""
    grids = [(example.name, example_picture(example)) for example in examples]
    data = json.dumps(to_dict(result), indent=1, ensure_ascii=False)
    return write_files(folder, FILES, [data, _shifts(result), to_html(result, grids)], force=force)


def to_dict(result: GateResult) -> dict[str, Any]:
    """Everything but the shifts of single pictures."""
    return {
        "diffeat": __version__,
        "recipe": result.base.content(),
        "settings": asdict(result.settings),
        "timesteps": result.timesteps,
        "precision": result.precision,
        "pictures": list(result.pictures),
        "calls": result.calls,
        "ceiling": result.ceiling,
        "warnings": list(result.warnings),
        "base": {"/".join(at): float(x.mean()) for at, x in result.shifts["base"].items()},
        "variants": [
            {
                "name": v.name,
                "role": v.role,
                "verdicts": {"/".join(at): asdict(x) for at, x in result.verdicts.get(v.name, {}).items()},
            }
            for v in result.variants
        ],
    }


def to_html(result: GateResult, grids: Sequence[tuple[str, Image.Image]] = ()) -> str:
    s = result.settings
    page = Page(
        f"GATE · {result.base.name}", f"{len(result.pictures)} pictures × {s.seeds} seeds, diffeat {__version__}"
    )
    best = result.ranking()[0]
    verdict = result.deciding(best)
    if verdict is not None:
        page.text(f"{best}: {verdict}", "big")
    page.table(*result.table())
    page.bullets([*result.warnings, *_notes(result)])
    for stage, title in _STAGES.items():
        svg = forest_svg(result, stage)
        if svg:
            page.heading(title[0].upper() + title[1:])
            page.drawing(svg, f"Gain by {s.deciding(stage)} with {s.confidence:.0%} intervals; right is better.")
            page.table(*_measure_rows(result, stage))
    for caption, grid in grids:
        page.heading("Pictures") if caption == grids[0][0] else None
        page.picture(grid, caption)
    return page.html()


def example_picture(example: Example) -> Image.Image:
    """The picture, its reconstructions, and its features, in rows."""
    true, t = to_image(example.pixels), example.timesteps
    rows = {
        f"Img2Img from t = {t['img2img']:g}": [true, *map(to_image, example.img2img)],
        f"estimate of the clean picture at t = {t['operating']:g}": [true, *map(to_image, example.estimates)],
    }
    if example.activation is not None:
        colours = [Image.fromarray(c) for c in pca_colours(example.features, shared=True)]
        rows[f"{example.activation}, shared PCA colours; first: of the clean picture"] = colours
    shown = {str(k): name.strip() for k, name in enumerate(["picture", *example.variants])}
    cells = {(i, str(k)): cell for i, row in enumerate(rows.values()) for k, cell in enumerate(row)}
    titles = [(title, None, {}) for title in rows]
    return draw_grid(titles, list(shown), cells, {}, 200, Image.Resampling.BICUBIC, "", shown)


def forest_svg(result: GateResult, stage: Stage) -> str:
    """Gains with their intervals, one line per variant; empty if the stage was not measured."""
    from matplotlib.figure import Figure

    shown = [(v, x) for v in result.variants if (x := result.deciding(v.name, stage)) is not None]
    if not shown:
        return ""
    figure = Figure(figsize=(7.5, 0.6 + 0.34 * len(shown)), layout="constrained")
    axes = figure.subplots()
    margin = 100 * result.settings.margin
    axes.axvspan(-margin, margin, color="#eef0f3", zorder=0)
    axes.axvline(0, color="#9aa1ab", lw=1, zorder=1)
    for y, (variant, x) in enumerate(shown):
        colour, control = _COLOURS[x.call], variant.role != "technique"
        axes.plot(
            [100 * x.low, 100 * x.high], [y, y], color=colour, lw=1.4 if control else 2.6, alpha=0.6 if control else 1
        )
        axes.plot(100 * x.gain, y, "o", color=colour, ms=4 if control else 7, mfc="white" if control else colour)
    axes.set_yticks(range(len(shown)), [literal(v.title) for v, _ in shown], fontsize=8)
    for label, (variant, _) in zip(axes.get_yticklabels(), shown, strict=True):
        label.set_color("#20242a" if variant.role == "technique" else "#8a919c")
    axes.invert_yaxis()
    axes.set_xlabel("less shift than the base, %", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    handles = [axes.plot([], [], "o", color=c, ms=5, label=n)[0] for n, c in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside upper right", ncols=4, fontsize=7, frameon=False)
    return svg_of(figure)


def _measure_rows(result: GateResult, stage: Stage) -> tuple[list[str], list[list[str]]]:
    measures = [m for s, m in next(iter(result.shifts.values())) if s == stage]
    rows = []
    for v in result.variants:
        shifts, verdicts = result.shifts[v.name], result.verdicts.get(v.name, {})
        cells = []
        for m in measures:
            text = f"{shifts[stage, m].mean():.4f}"
            x = verdicts.get((stage, m))
            cells.append(text if x is None else f"{text} ({x.gain:+.1%}, {x.call})")
        rows.append([v.title, *cells])
    if stage == "img2img":
        rows.append(["encoding and decoding alone", *(f"{result.ceiling[m]:.4f}" for m in measures)])
    return ["shift (less is better)", *measures], rows


def _notes(result: GateResult) -> list[str]:
    s, t = result.settings, result.timesteps
    return [
        f"Img2Img from t = {t['img2img']:g} in {s.steps} steps; features are read at t = {t['operating']:g}",
        f"gain is the relative reduction of the mean shift, paired by picture and noise; {s.confidence:.0%} intervals "
        "are bootstraps over pictures with all their seeds",
        f"a technique without effect is called helpful in about {(1 - s.confidence) / 2:.1%} of such tests; every "
        "row and measure is a test of its own",
        f"verdicts, the first that holds: harmless if the interval lies within ±{s.margin:.0%}; helps or hurts if it "
        f"lies above or below 0; harmless if it excludes a loss of more than {s.margin:.0%}; else it cannot be told",
        "null: the technique at zero strength; shuffled: it is shown another picture",
        f"{result.calls:.0f} denoiser rows, computed in {result.precision}",
    ]


def _shifts(result: GateResult) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(["variant", "stage", "measure", "picture", "seed", "shift"])
    for variant, shifts in result.shifts.items():
        for (stage, measure), values in shifts.items():
            for i, row in enumerate(values):
                for seed, value in enumerate(row):
                    writer.writerow([variant, stage, measure, result.pictures[i], seed, f"{value:.6g}"])
    return buffer.getvalue()


def write_search_report(ended: SearchResult, folder: str | Path, *, force: bool = False) -> Path:
    """Write the recipe a search ended in, and a page of how it came to it; returns the page."""
    page = Page("GATE search", f"{ended.spent:.0f} denoiser rows, diffeat {__version__}")
    page.text(ended.chosen.label, "big")
    page.text(ended.reason)
    if ended.warnings:
        page.bullets(ended.warnings)
    page.table(*ended.table())
    contents = []
    if ended.recipe is not None:
        contents.append(ended.recipe.to_yaml())
        page.heading("Recipe")
        page.code(contents[0])
    return write_files(folder, SEARCH_FILES[-1 - len(contents) :], [*contents, page.html()], force=force)
