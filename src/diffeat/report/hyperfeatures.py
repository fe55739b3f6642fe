"""Pictures and pages of an aggregation network: what it mixes, what it costs, how it learned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.__about__ import __version__
from diffeat.extraction import Reading
from diffeat.extraction.joins.aggregation import AggregationNetwork
from diffeat.files import write_files
from diffeat.report.page import REPORT, Page, markdown_report, markdown_table, numbered, svg_of
from diffeat.tasks.correspondence.protocol import PER, Protocol
from diffeat.training.hyperfeatures.prune import CurvePoint, ranked

_BLUE, _RED, _GREY = "#1f5fbf", "#c2452d", "#8899aa"


def step_labels(network: AggregationNetwork, times: Sequence[float]) -> list[str]:
    """The timestep of every step of a network, ``clean`` for -1; the steps' own numbers if there are no times."""
    return ["clean" if t == -1 else f"{t:g}" for t in times] if times else [f"{s:g}" for s in network.config.steps]


def short_layer(name: str) -> str:
    """``up 1 · 2`` for ``up_blocks.1.resnets.2.increment``; other names as they are."""
    parts = name.split(".")
    if parts[0] == "up_blocks" and len(parts) >= 4 and parts[2] == "resnets":
        return f"up {parts[1]} · {parts[3]}"
    return name


def mixing_heat_svg(network: AggregationNetwork, times: Sequence[float] = ()) -> str:
    """The mixing weights, layers × timesteps, with the sums of rows and columns, as an SVG drawing."""
    shares = 100 * network.shares.detach().cpu().T.numpy()
    return heat_svg(shares, network, times, "mixing weight (%)", sums=True)


def heat_svg(
    values: np.ndarray, network: AggregationNetwork, times: Sequence[float], label: str, sums: bool = False
) -> str:
    """Values ``(layers, steps)`` of a network, with the sums of rows and columns or a scale, as an SVG drawing."""
    from matplotlib.figure import Figure

    rows, columns = values.shape
    figure = Figure(figsize=(2.6 + 0.62 * columns + 1.6 * sums, 1.5 + 0.36 * rows + 1.0 * sums), layout="constrained")
    if sums:
        grid = figure.add_gridspec(2, 2, width_ratios=[columns * 0.62, 1.5], height_ratios=[0.9, rows * 0.36])
        axes = figure.add_subplot(grid[1, 0])
        above = figure.add_subplot(grid[0, 0], sharex=axes)
        beside = figure.add_subplot(grid[1, 1], sharey=axes)
        above.bar(range(columns), values.sum(0), color=_BLUE, width=0.85)
        beside.barh(range(rows), values.sum(1), color=_BLUE, height=0.85)
        above.tick_params(labelbottom=False, labelsize=8)
        beside.tick_params(labelleft=False, labelsize=8)
        for side in (above, beside):
            side.spines[["top", "right"]].set_visible(False)
    else:
        axes = figure.add_subplot()
    image = numbered(axes, values, 7)
    axes.set_xticks(range(columns), step_labels(network, times), fontsize=8)
    axes.set_yticks(range(rows), [short_layer(a) for a in network.config.activations], fontsize=8)
    axes.set_xlabel("timestep" if times else "step")
    if not sums:
        figure.colorbar(image, ax=axes, label=label, fraction=0.05)
    else:
        axes.set_title(label, fontsize=9, loc="left")
    return svg_of(figure)


def curve_svg(points: Sequence[CurvePoint]) -> str:
    """PCK against denoiser passes and against bottlenecks run, as an SVG drawing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    strongest = [p for p in points if "alone" not in p.pruned.label]
    for axes, cost, axis in (
        (right, lambda p: p.calls, "denoiser passes per picture"),
        (left, lambda p: len(p.pruned.kept), "pairs of step and layer kept"),
    ):
        if axes is left:
            axes.plot([cost(p) for p in strongest], [p.result.value for p in strongest], color=_BLUE, linewidth=1.4)
        for point in points:
            value, label = point.result.value, point.pruned.label
            low, high = point.result.intervals.get(point.result.protocol.alpha, (value, value))
            spread = [[max(0, value - low)], [max(0, high - value)]]
            text, colour, marker = str(len(point.pruned.kept)), _BLUE, "o"
            if "alone" in label:
                text, colour, marker = short_layer(label.removesuffix(" alone").removeprefix("layer ")), _RED, "s"
            style = {"capsize": 3, "marker": marker, "markersize": 5, "linewidth": 1}
            axes.errorbar([cost(point)], [value], spread, color=colour, **style)
            place = {"textcoords": "offset points", "xytext": (5, 5)}
            axes.annotate(text, (cost(point), value), fontsize=8, color=colour, **place)
        axes.set_xlabel(axis)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    counts = [len(p.pruned.kept) for p in strongest]
    left.set_xscale("log", base=2)
    left.set_xticks(counts, [str(n) for n in counts])
    left.minorticks_off()
    protocol = points[0].result.protocol
    left.set_ylabel(f"{protocol.measure()},\n{PER[protocol.average]} (%)")
    return svg_of(figure)


def training_svg(rows: Sequence[Mapping[str, str]], measure: str = "validation") -> str:
    """Loss and validation (without a sign) by step, from the rows of a training log, as an SVG drawing."""
    from matplotlib.figure import Figure

    steps = np.array([int(r["step"]) for r in rows])
    loss = np.array([float(r["loss"]) for r in rows])
    width = max(1, len(loss) // 50)
    smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
    figure = Figure(figsize=(7.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, loss, color=_GREY, linewidth=0.5, alpha=0.5)
    axes.plot(steps[width - 1 :], smooth, color=_BLUE, linewidth=1.8)
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.25)
    measured = [(int(r["step"]), abs(float(r["validation"]))) for r in rows if r.get("validation")]
    if measured:
        other = axes.twinx()
        other.plot(*zip(*measured, strict=True), color=_RED, marker="o", linewidth=1.2)
        other.set_ylabel(measure, color=_RED)
    return svg_of(figure)


def round_trip_svg(errors: Mapping[int, Sequence[float]], label: str = "error of what came back (%)") -> str:
    """Relative errors after inversion and back by the number of steps, as an SVG drawing: each picture, the median."""
    from matplotlib.figure import Figure

    steps = sorted(errors)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for values in zip(*(errors[n] for n in steps), strict=True):
        axes.plot(steps, [100 * v for v in values], color=_GREY, linewidth=0.8, alpha=0.6)
    axes.plot(steps, [100 * float(np.median(errors[n])) for n in steps], color=_BLUE, linewidth=2.2, marker="o")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xticks(steps, [str(n) for n in steps])
    axes.minorticks_off()
    axes.set(xlabel="steps each way", ylabel=label)
    axes.grid(alpha=0.25)
    return svg_of(figure)


def curve_rows(points: Sequence[CurvePoint]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of a pruning curve."""
    protocol = points[0].result.protocol
    quoted = protocol.columns()[protocol.headline]
    header = ["kept", "of step and layer", "steps", "layers", "weight kept", "denoiser passes", quoted]
    rows = []
    for point in points:
        config = point.pruned.network.config
        rows.append(
            [
                point.pruned.label,
                str(len(point.pruned.kept)),
                str(len(config.steps)),
                str(len(config.channels)),
                f"{100 * point.pruned.share:.1f} %",
                f"{point.calls:.2f}",
                point.result.cell(point.result.protocol.alpha),
            ]
        )
    return header, rows


def about_curve(points: Sequence[CurvePoint], data: str) -> list[str]:
    """What the numbers of a pruning curve mean, in sentences: threshold, averages, pairs, intervals."""
    result = points[0].result
    spread = [f"intervals: {result.confidence:.0%} bootstrap over pictures"] if result.intervals else []
    return [str(result.protocol), f"{result.counts} of {data}", *spread, *result.notes]


def write_pruning_report(
    folder: Path,
    recipe: Reading,
    network: AggregationNetwork,
    points: Sequence[CurvePoint],
    times: Sequence[float],
    data: str,
    notes: Sequence[str] = (),
    *,
    force: bool = False,
) -> Path:
    """Write the mixing weights, and accuracy against cost; returns the page.

    Args:
        data: Name and split of the pairs that were scored.
        notes: What else a reader of the numbers must know.
    """
    page = Page(f"What {recipe.name} mixes", f"recipe {recipe.hash[:12]}, diffeat {__version__}")
    page.heading("Mixing weights")
    page.drawing(mixing_heat_svg(network, times), "Share of every layer (row) at every timestep (column), in percent.")
    page.text("The strongest pairs: " + "; ".join(strongest_words(network, times)) + ".")
    page.heading("Accuracy and cost of what is left")
    about = [*about_curve(points, data), *notes]
    page.drawing(curve_svg(points), "Blue: the strongest pairs by number. Red: one step, one layer.")
    page.table(*curve_rows(points))
    page.bullets(about)
    text = markdown_report(f"What {recipe.name} mixes", [markdown_table(*curve_rows(points))], about)
    plain: dict[str, Any] = {
        "diffeat": __version__,
        "recipe": recipe.name,
        "recipe_hash": recipe.hash,
        "dataset": data,
        "activations": list(network.config.activations),
        "steps": list(network.config.steps),
        "timesteps": list(times),
        "mixing_weights": network.shares.detach().cpu().tolist(),
        "curve": [
            {
                "label": p.pruned.label,
                "kept": [list(place) for place in p.pruned.kept],
                "share": p.pruned.share,
                "denoiser_passes": p.calls,
                "result": p.result.to_dict(),
            }
            for p in points
        ],
    }
    return write_files(folder, REPORT, [json.dumps(plain, indent=1), text, page.html()], force=force)


def strongest_words(network: AggregationNetwork, times: Sequence[float], count: int = 5) -> list[str]:
    """The strongest pairs in words."""
    shares, labels = network.shares.detach(), step_labels(network, times)
    return [
        f"{short_layer(network.config.activations[k])} at t = {labels[s]} ({100 * float(shares[s, k]):.1f} %)"
        for s, k in ranked(network)[:count]
    ]


def write_training_report(
    folder: Path,
    recipe: Reading,
    network: AggregationNetwork,
    rows: Sequence[Mapping[str, str]],
    times: Sequence[float],
    facts: Sequence[str],
    protocol: Protocol | None = None,
    *,
    force: bool = False,
) -> Path:
    """Write ``report.html`` of a training: facts, loss, validation, mixing weights; returns it."""
    page = Page(f"Training of {recipe.name}", f"recipe {recipe.hash[:12]}, diffeat {__version__}")
    page.bullets(list(facts))
    page.heading("Loss")
    validated = "" if protocol is None else f"{protocol.measure()}, {PER[protocol.average]}"
    caption = "Loss of each step and its moving mean (blue)" + (f"; validation in red: {validated}" * bool(validated))
    page.drawing(training_svg(rows, f"{validated} (%)"), f"{caption}.")
    page.heading("Mixing weights")
    page.drawing(mixing_heat_svg(network, times), "Share of every layer (row) at every timestep (column), in percent.")
    return write_files(folder, REPORT[-1:], [page.html()], force=force)
