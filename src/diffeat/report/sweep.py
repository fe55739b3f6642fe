"""The report of a sweep: ``sweep.html``, ``sweep.md``, ``sweep.json``, and the chosen recipe ``best.yaml``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from diffeat.files import write_files
from diffeat.report.page import Page, literal, markdown, markdown_report, markdown_table, numbered, svg_of
from diffeat.studies.sweeps import Sweep

#: What is written.
FILES = ("sweep.json", "sweep.md", "best.yaml", "sweep.html")


def write_sweep(sweep: Sweep, folder: str | Path, *, force: bool = False) -> Path:
    """Write the report; returns the HTML page."""
    data = {
        "recipe": sweep.base.content(),
        "dataset": sweep.dataset,
        "protocol": str(sweep.protocol),
        "best": asdict(sweep.best),
        "notes": sweep.notes,
        "cells": [asdict(c) for c in sweep.cells.values()],
    }
    title = f"Sweep of {sweep.base.name} on {sweep.dataset}"
    page = Page(title, str(sweep.protocol))
    page.text(f"t = {sweep.best.timestep:g}, {sweep.best.block}", "big")
    page.text(sweep.best.told(sweep.protocol))
    quoted, other = sweep.protocol.sides
    page.drawing(heat_map(sweep), f"{sweep.protocol.measure()} in percent, {quoted}; the best cell is framed.")
    page.bullets(summary(sweep))
    page.text(f"{sweep.protocol.measure()}, {quoted} ({other}):")
    page.table(*sweep.table())
    about = f"{markdown(str(sweep.protocol))}. {sweep.protocol.measure()}, {quoted} ({other}):"
    text = markdown_report(title, [about, markdown_table(*sweep.table())], summary(sweep))
    return write_files(
        folder, FILES, [json.dumps(data, indent=1), text, sweep.recipe.to_yaml(), page.html()], force=force
    )


def summary(sweep: Sweep) -> list[str]:
    """The outcome in sentences."""
    best, rivals = sweep.best, sweep.rivals
    return [
        f"Best: t = {best.timestep:g}, {best.block}: {best.told(sweep.protocol)}.",
        f"{len(rivals)} of {len(sweep.cells)} cells have intervals that reach this score"
        + (": the choice among them is not settled by these data." if rivals else "."),
        f"Scored on {sweep.dataset}; report final numbers on another split.",
        *sweep.notes,
    ]


def heat_map(sweep: Sweep) -> str:
    """Timestep by block as an SVG drawing."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    values = np.array([[sweep.cells[t, b].value for t in sweep.timesteps] for b in sweep.blocks])
    rows, columns = values.shape
    figure = Figure(figsize=(2.2 + 0.75 * columns, 1.4 + 0.42 * rows), layout="constrained")
    axes = figure.add_subplot()
    drawn = numbered(axes, values, 8)
    axes.invert_yaxis()
    place = sweep.timesteps.index(sweep.best.timestep), sweep.blocks.index(sweep.best.block)
    frame = Rectangle((place[0] - 0.5, place[1] - 0.5), 1, 1, fill=False, edgecolor="#d1495b", linewidth=2.5)
    axes.add_patch(frame)
    axes.set_xticks(range(columns), [f"{t:g}" for t in sweep.timesteps])
    axes.set_yticks(range(rows), sweep.blocks, fontsize=8)
    axes.set(xlabel="timestep", ylabel="block", title=literal(f"{sweep.base.name} on {sweep.dataset}"))
    figure.colorbar(drawn, ax=axes, label=f"{sweep.protocol.measure()}, {sweep.protocol.sides[0]} (%)")
    return svg_of(figure)
