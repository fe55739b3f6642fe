"""Figures of a selection: a plot for each property, how the set grew, and which candidates say the same."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffeat.report.page import svg_of
from diffeat.studies.selection.properties import Property
from diffeat.studies.selection.rules import load_rules
from diffeat.studies.selection.search import Selection

_INK, _SOFT, _LINE, _GREY, _BLUE, _RED, _GOLD = (
    *("#20242a", "#5d6775", "#e3e6ea", "#c3c9d2", "#3d7cc9", "#c0392b", "#e08a00"),
)
#: Field, its name in the table, format, and what it says; every one has a plot.
PROPERTIES = (
    ("noise", "noise", "{:.2f}", "share of what varies that follows the noise draw, not the picture"),
    ("noise_low", "low noise", "{:.2f}", "the same in the low frequencies, up to 4 cycles a side"),
    ("noise_fine", "fine noise", "{:.2f}", "the same in the finer half of what the grid can show"),
    ("resolution", "resolution", "{:.1f}", "cells a side that 90 % of the picture's own variance needs"),
    ("granularity", "granularity", "{:.2f}", "resolution over the cells there are"),
    ("halving", "halving loss", "{:.2f}", "share of the picture's variance lost by averaging 2×2 cells"),
    ("position", "position", "{:.2f}", "share of what varies that the place alone explains"),
    ("concentration", "concentration", "{:.2f}", "how near the cells most like a cell lie: 0 anywhere, 0.8 next door"),
    ("kurtosis", "kurtosis", "{:.1f}", "excess kurtosis of the values"),
    ("dead", "dead", "{:.2f}", "share of constant channels"),
    ("massive", "massive", "{:d}", "channels ten times as loud as the median"),
)


def properties_svg(selection: Selection) -> str:
    """One plot for each property, over the activations in order of execution."""
    rows = -(-len(PROPERTIES) // 2)
    figure = Figure(figsize=(13, 1.75 * rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.06)  # type: ignore[union-attr]
    panels = figure.subplots(rows, 2, squeeze=False).ravel()
    last = set(selection.steps[-1].ids)
    thresholds = _thresholds(selection)
    properties = selection.measurement.properties
    stages = _stages(properties)
    for axes, (field, name, _, meaning) in zip(panels, PROPERTIES, strict=False):
        values = [p.values()[field] for p in properties]
        for kind, colour, size in (("rejected", _GREY, 13), ("candidate", _BLUE, 17), ("chosen", _GOLD, 46)):
            shown = [
                (i, value)
                for i, (p, value) in enumerate(zip(properties, values, strict=True))
                if value is not None and _said(selection, p, last) == kind
            ]
            if shown:
                edge = _INK if kind == "chosen" else "none"
                axes.scatter(
                    *zip(*shown, strict=True), s=size, color=colour, label=kind, edgecolors=edge, linewidths=0.7
                )
        for threshold in thresholds.get(field, ()):
            axes.axhline(threshold, color=_RED, linewidth=1, linestyle=(0, (1, 2)), zorder=0)
        _frame(axes, len(properties), stages)
        axes.set_title(name, loc="left", fontsize=11, fontweight="bold", color=_INK, pad=18)
        axes.annotate(
            meaning, (0, 1), (96, 21), xycoords="axes fraction", textcoords="offset points", fontsize=8.5, color=_SOFT
        )
    for axes in panels[len(PROPERTIES) :]:
        axes.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    if len(panels) > len(PROPERTIES):
        panels[-1].legend(handles, labels, loc="center", ncols=3, frameon=False, fontsize=11, markerscale=1.4)
    return svg_of(figure)


def growth_svg(selection: Selection) -> str:
    """Channels against the score over the best single one: candidates alone, and the set as it grew."""
    channels = {p.id: p.channels for p in selection.measurement.properties}
    names = list(selection.tasks)
    top = {n: max(1e-9, *(s[n].value for s in selection.singles.values())) for n in names}
    singles = [(channels[id], np.mean([s[n].value / top[n] for n in names])) for id, s in selection.singles.items()]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.scatter(*zip(*singles, strict=True), s=22, color=_BLUE, alpha=0.75, label="a candidate alone")
    path = [(s.channels, s.combined) for s in selection.steps]
    axes.plot(*zip(*path, strict=True), color=_GOLD, linewidth=2, zorder=3)
    axes.scatter(
        *zip(*path, strict=True), s=60, color=_GOLD, edgecolors=_INK, linewidths=0.7, zorder=4, label="the set"
    )
    for k, point in enumerate(path, 1):
        axes.annotate(str(k), point, (0, 8), textcoords="offset points", ha="center", fontsize=9, color=_INK)
    axes.axvline(selection.settings.budget, color=_RED, linewidth=1, linestyle=(0, (1, 2)), label="budget")
    axes.set(xlabel="channels", ylabel="score over the best single", xlim=(0, None))
    axes.margins(y=0.12)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.grid(color=_LINE)
    _open(axes)
    return svg_of(figure)


def redundancy_svg(selection: Selection) -> str:
    """CKA between the candidates, in order of execution; chosen ones are named."""
    properties = selection.measurement.properties
    shown = [i for i, p in enumerate(properties) if selection.verdicts[p.id].kept]
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(selection.measurement.redundancy[shown][:, shown], vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, label="CKA", shrink=0.85).outline.set_visible(False)  # type: ignore[operator]
    steps = {id: str(k) for k, id in enumerate(selection.steps[-1].ids, 1)}
    marks = [(k, steps[properties[i].id]) for k, i in enumerate(shown) if properties[i].id in steps]
    ticks, labels = zip(*marks, strict=True)
    axes.set_xticks(ticks, labels)
    axes.set_yticks(ticks, labels)
    axes.tick_params(length=0, colors=_INK)
    axes.spines[:].set_visible(False)
    for tick in ticks:
        axes.axhline(tick, color=_GOLD, linewidth=0.8)
        axes.axvline(tick, color=_GOLD, linewidth=0.8)
    return svg_of(figure)


def _said(selection: Selection, p: Property, last: set[str]) -> str:
    return "chosen" if p.id in last else "candidate" if selection.verdicts[p.id].kept else "rejected"


def _thresholds(selection: Selection) -> dict[str, list[float]]:
    """Where rules begin, by field."""
    found: dict[str, list[float]] = {}
    for rule in [] if selection.settings.rules == "paper" else load_rules(selection.settings.rules):
        for field, value in rule.thresholds():
            found.setdefault(field, []).append(value)
    return found


def _stages(properties: Sequence[Property]) -> list[tuple[int, int, str]]:
    """First, one past the last, and name of every run of activations of one stage."""
    starts = [0] + [i for i in range(1, len(properties)) if properties[i].stage != properties[i - 1].stage]
    return [(a, b, properties[a].stage) for a, b in pairwise([*starts, len(properties)])]


def _frame(axes: Axes, count: int, stages: Sequence[tuple[int, int, str]]) -> None:
    for k, (start, stop, name) in enumerate(stages):
        if k % 2:
            axes.axvspan(start - 0.5, stop - 0.5, color="#f4f5f8", zorder=-1, linewidth=0)
        if stop - start > count / 24:
            axes.annotate(
                name, ((start + stop - 1) / 2, 1), (0, 4), xycoords=("data", "axes fraction"),
                textcoords="offset points", ha="center", fontsize=8, color=_SOFT,
            )  # fmt: skip
    axes.set(xlim=(-1, count), xticks=[])
    axes.margins(y=0.12)
    axes.grid(axis="y", color=_LINE)
    _open(axes)


def _open(axes: Axes) -> None:
    """No box around the plot; what lies on the grid stays above it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b9c0ca")
    axes.tick_params(colors=_SOFT, labelsize=8.5, length=0)
    axes.set_axisbelow(True)
