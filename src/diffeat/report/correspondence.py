"""The report of an evaluation: ``report.json``, ``report.md``, ``report.html``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffeat.__about__ import __version__
from diffeat.files import write_files
from diffeat.geometry import open_image
from diffeat.report.match_picture import errors_picture
from diffeat.report.page import REPORT, Page, markdown, markdown_report, markdown_table, svg_of
from diffeat.tasks.correspondence.evaluate import Evaluation, PairPrediction
from diffeat.tasks.correspondence.keypoints import PckResult, curve
from diffeat.tasks.correspondence.protocol import AVERAGES, PER

_CURVE = tuple(round(0.01 * i, 2) for i in range(1, 31))


def write_report(evaluation: Evaluation, folder: str | Path, examples: int = 3, *, force: bool = False) -> Path:
    """Write the report, with ``examples`` pairs each of the best, the median and the worst; returns the HTML page."""
    data = json.dumps(to_dict(evaluation), indent=1, ensure_ascii=False)
    return write_files(folder, REPORT, [data, to_markdown(evaluation), to_html(evaluation, examples)], force=force)


def to_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Everything, predictions included, as plain values."""
    return {
        "diffeat": __version__,
        "dataset": evaluation.dataset,
        "recipe": evaluation.recipe,
        "recipe_hash": evaluation.recipe_hash,
        "settings": evaluation.settings,
        "result": evaluation.result.to_dict(),
        "left_out": evaluation.left_out,
        "pictures": evaluation.pictures,
        "seconds": {k: round(v, 3) for k, v in evaluation.seconds.items()},
        "pairs": [
            {
                "name": p.pair.name,
                "category": p.pair.category,
                "source": str(p.pair.source),
                "target": str(p.pair.target),
                "predicted": p.matches.target.tolist(),
                "similarity": [round(s, 6) for s in p.matches.similarity.tolist()],
                "distances": list(p.record.distances),
                "lengths": p.record.lengths,
            }
            for p in evaluation.predictions
        ],
    }


def to_markdown(evaluation: Evaluation) -> str:
    result = evaluation.result
    parts = [f"Protocol: {markdown(str(result.protocol))}; {result.counts}", markdown_table(*_headline(result))]
    if len(result.categories) > 1:
        parts.append(markdown_table(*result.table(), sums_up=True))
    title = f"{evaluation.dataset} · {evaluation.recipe}"
    return markdown_report(title, parts, _notes(evaluation))


def to_html(evaluation: Evaluation, examples: int = 3) -> str:
    result = evaluation.result
    alpha = result.protocol.alpha
    page = Page(
        f"{evaluation.dataset} · {evaluation.recipe}", f"recipe {evaluation.recipe_hash[:12]}, diffeat {__version__}"
    )
    quoted, other = result.protocol.averages
    page.text(f"PCK@{alpha:g} {result.number(alpha, quoted)} {PER[quoted]}", "big")
    page.text(f"{result.number(alpha, other)} {PER[other]}. {result.protocol}; {result.counts}", "soft")
    page.table(*_headline(result))
    page.bullets(_notes(evaluation))
    if result.protocol.reference != "pixels":
        page.heading("PCK over the threshold")
        average = AVERAGES[result.protocol.average]
        page.drawing(curve_svg(evaluation), f"{average.capitalize()}: all pairs in bold; categories thin.")
    if len(result.categories) > 1:
        page.heading("Categories")
        page.table(*result.table())
    for title, chosen in example_pairs(evaluation, examples).items():
        page.heading(title)
        for prediction in chosen:
            page.picture(pair_picture(prediction, result), prediction.pair.name)
    return page.html()


def example_pairs(evaluation: Evaluation, count: int) -> dict[str, list[PairPrediction]]:
    """The best, the median and the worst pairs by mean error over reference length."""
    reference = evaluation.result.protocol.reference

    def error(p: PairPrediction) -> float:
        return float(np.mean(p.record.distances)) / p.record.lengths[reference]

    ranked = sorted(evaluation.predictions, key=error)
    if len(ranked) <= 3 * count:
        return {"Pairs, best first": ranked}
    middle = (len(ranked) - count) // 2
    return {
        "Best pairs": ranked[:count],
        "Median pairs": ranked[middle : middle + count],
        "Worst pairs": ranked[-count:],
    }


def pair_picture(prediction: PairPrediction, result: PckResult) -> Image.Image:
    protocol = result.protocol
    limit = protocol.alpha * prediction.record.lengths[protocol.reference]
    correct = [d <= limit if protocol.inclusive else d < limit for d in prediction.record.distances]
    similarity = prediction.matches.similarity.mean().item()
    caption = f"{sum(correct)} of {len(correct)} within α = {protocol.alpha:g}, mean similarity {similarity:.2f}"
    return errors_picture(
        open_image(prediction.pair.source),
        open_image(prediction.pair.target),
        prediction.matches.source,
        prediction.matches.target,
        torch.tensor(prediction.pair.target_points),
        correct,
        limit,
        caption=caption,
    )


def curve_svg(evaluation: Evaluation, alphas: Sequence[float] = _CURVE) -> str:
    """PCK over the threshold as an SVG drawing."""
    from matplotlib.figure import Figure

    result = evaluation.result
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    if 1 < len(result.categories) <= 40:
        for name in result.categories:
            some = [r for r in evaluation.records if r.category == name]
            axes.plot(alphas, curve(some, result.protocol, alphas), color="#8899aa", linewidth=0.7, alpha=0.6)
    axes.plot(alphas, curve(evaluation.records, result.protocol, alphas), color="#1f5fbf", linewidth=2.4)
    interval = result.intervals.get(result.protocol.alpha)
    if interval:
        value = result.value
        error = [[max(0, value - interval.low)], [max(0, interval.high - value)]]
        axes.errorbar([result.protocol.alpha], [value], error, color="#1f5fbf", capsize=4, marker="o")
    unit = result.protocol.measure().partition(" ")[2]
    axes.set(xlabel=f"α {unit}", ylabel=f"PCK {PER[result.protocol.average]} (%)", xlim=(0, max(alphas)), ylim=(0, 100))
    axes.grid(alpha=0.25)
    return svg_of(figure)


def _headline(result: PckResult) -> tuple[list[str], list[list[str]]]:
    alphas = result.protocol.alphas
    rows = [[PER[average], *(result.number(a, average) for a in alphas)] for average in result.protocol.averages]
    return ["average", *(f"PCK@{a:g}" for a in alphas)], rows


def _notes(evaluation: Evaluation) -> list[str]:
    seconds, pictures = evaluation.seconds, evaluation.pictures
    return [
        *evaluation.result.notes,
        f"{pictures['extracted']} pictures extracted in {seconds['extraction']:.1f} s ({pictures['present']} were "
        f"there), {len(evaluation.predictions)} pairs matched in {seconds['matching']:.1f} s",
    ]
