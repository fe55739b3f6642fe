"""The report on massive activations: ``massive.html``, ``massive.md`` and ``massive.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from diffeat.__about__ import __version__
from diffeat.extraction.reduce import Place
from diffeat.files import write_files
from diffeat.report import massive_figures as figures
from diffeat.report.page import Page, markdown, markdown_report, markdown_table
from diffeat.studies.massive import Survey

#: Channels whose origin is told in a sentence.
_NAMED = 6
#: What is written.
FILES = ("massive.json", "massive.md", "massive.html")


def write_massive(survey: Survey, pictures: Sequence[Image.Image], folder: str | Path, *, force: bool = False) -> Path:
    """Write the report of a survey, with the pictures of its examples in their order; returns the HTML page."""
    contents = json.dumps(to_dict(survey), indent=1), to_markdown(survey), to_html(survey, pictures)
    return write_files(folder, FILES, contents, force=force)


def to_dict(survey: Survey) -> dict[str, Any]:
    """Everything but the pictures, as plain values."""
    places = []
    for (block, time), detection in survey.detections.items():
        statistics = survey.statistics[Place(block, time)]
        largest = survey.largest(Place(block, time))
        places.append(
            {
                "timestep": time,
                "block": block,
                "median_channel": float(statistics.mean_abs.median()),
                "largest": {c: float(statistics.mean_abs[c]) for c in statistics.top(5)},
                "peak_ratio": detection.peak_ratio,
                "gini": detection.gini,
                "energy_share": detection.energy_share,
                "massive": [vars(m) for m in detection.found],
                "largest_channel": {**vars(largest), "failed": largest.failed(survey.rule)},
            }
        )
    return {
        "diffeat": __version__,
        "model": survey.model,
        "recipe": survey.base.content(),
        "pictures": survey.pictures,
        "precision": survey.precision,
        "rule": vars(survey.rule),
        "stability": survey.stability(),
        "high_norm_tokens": survey.high_norm,
        "births": [vars(survey.birth(c)) for c in survey.channels],
        "places": places,
    }


def summary(survey: Survey) -> list[str]:
    """What was found, in sentences."""
    block, time = survey.place
    rule, largest = survey.rule, survey.largest(survey.place)
    here = f"the largest at {block}, channel {largest.channel}"
    numbers = (
        f"is {largest.ratio:.1f} times the median channel (the rule asks for {rule.ratio:g}, met in "
        f"{largest.presence:.0%} of the pictures) with |mean| / std of {largest.sign:.1f}"
    )
    if survey.channels:
        some = ", ".join(map(str, survey.channels))
        lines = [f"Massive channels at t = {time:g}, at one block or more: {some}."]
        if not survey.detections[survey.place].channels:
            lines.append(f"None of them at {block}, which is looked at closely: {here}, {numbers}.")
        for channel in survey.channels[:_NAMED]:
            birth = survey.birth(channel)
            where = (
                f"its input is the first to have it; written by {birth.born_in}" if birth.born_in else "from the first"
            )
            rank = f", whose gate there ranks {birth.gate_rank} of all channels" if birth.gate_rank else ""
            lines.append(f"Channel {channel}: block {survey.blocks[birth.first]} ({where}{rank}).")
    else:
        lines = [f"No massive channel at t = {time:g} by this rule. {here[0].upper()}{here[1:]}, {numbers}."]
    counts = {"pictures": survey.pictures, "timesteps": len(survey.timesteps), "blocks": len(survey.blocks)}
    stability = ", ".join(f"{counts[k]} {k} {v:.2f}" for k, v in survey.stability().items() if counts[k] > 1)
    lines.append(f"Overlap of the five largest channels (Jaccard, 1 is the same) over {stability}.")
    most = max(survey.high_norm, key=lambda b: survey.high_norm[b])
    lines.append(
        f"High-norm tokens, massive channels left out: at most {survey.high_norm[most]:.1%} of a picture ({most}). "
        "They are another thing than massive channels."
    )
    lines.append(
        f"Rule: mean |x| ≥ {rule.ratio:g} × the median channel, |mean| / std ≥ {rule.constant_sign:g}, in "
        f"≥ {rule.presence:.0%} of {survey.pictures} pictures; raw stream entering the block, image tokens, one draw; "
        f"computed in {survey.precision}."
    )
    return lines


def channel_rows(survey: Survey) -> tuple[list[str], list[list[str]]]:
    """The massive channels at the place that is looked at closely, with their AdaLN parameters."""
    parts = survey.modulation[survey.place]
    header = ["channel", "× median", "mean", "std", "in pictures", *(f"{k} (rank)" for k in parts)]
    rows = []
    for found in survey.detections[survey.place].found:
        ranks = []
        for values in parts.values():
            rank = int((values.abs() > values[found.channel].abs()).sum()) + 1
            ranks.append(f"{float(values[found.channel]):.2f} ({rank})")
        numbers = [f"{found.ratio:.1f}", f"{found.mean:.2f}", f"{found.std:.2f}", f"{found.presence:.0%}"]
        rows.append([str(found.channel), *numbers, *ranks])
    return header, rows


def to_markdown(survey: Survey) -> str:
    block, time = survey.place
    parts = ["\n".join(f"- {markdown(line)}" for line in summary(survey))]
    header, rows = channel_rows(survey)
    if rows:
        parts += [f"At `{block}`, t = {time:g}:", markdown_table(header, rows)]
    return markdown_report(f"Massive activations · {survey.model}", [*parts, markdown_table(*survey.table())])


def to_html(survey: Survey, pictures: Sequence[Image.Image]) -> str:
    block, time = survey.place
    page = Page(f"Massive activations · {survey.model}", f"{block}, t = {time:g}, {survey.pictures} pictures")
    here = survey.detections[survey.place].channels
    page.text(f"massive channels at {block}: {_listed(here)}", "big")
    page.bullets(summary(survey))
    header, rows = channel_rows(survey)
    if rows:
        page.table(header, rows)
    said = captions(survey)
    page.heading("Magnitudes over tokens and channels")
    page.picture(figures.magnitudes(survey), said["magnitudes"])
    page.heading("Where they are born" if survey.channels else "Through the depth")
    page.drawing(figures.depth(survey), said["depth"])
    page.table(*survey.table())
    if len(survey.timesteps) > 1:
        page.heading("Over the timestep")
        page.drawing(figures.over_time(survey), said["timesteps"])
    page.heading("Modulation")
    page.drawing(figures.modulation(survey), said["modulation"])
    page.heading("What features tell apart")
    page.picture(figures.features(survey, pictures), said["features"])
    return page.html()


def captions(survey: Survey) -> dict[str, str]:
    """What each figure shows of this survey."""
    block, time = survey.place
    here = survey.detections[survey.place].channels
    some = figures.shown(survey)
    more = f" (of {len(survey.channels)})" if len(survey.channels) > len(some) else ""
    what = (
        f"massive channels {_listed(some)}{more}"
        if survey.channels
        else f"no channel is massive; drawn is the largest of {block}, {some[0]}"
    )
    massive_at = [
        f"{', '.join(map(str, found))} at t = {t:g}"
        for t in survey.timesteps
        if (found := survey.detections[Place(block, t)].channels)
    ]
    likeness = {
        kind: sum(float(figures.local_similarity(row[kind].tensor).mean()) for row in survey.examples)
        / len(survey.examples)
        for kind in survey.examples[0]
    }
    discarded = f"channels {_listed(here)} were discarded" if here else "nothing was discarded: the last two are equal"
    return {
        "magnitudes": f"One picture; what enters the norm, and what AdaLN makes of it; {discarded}.",
        "depth": f"Above, {what}"
        + ("; triangles: the first block whose input has the channel" if survey.channels else "")
        + ". Below, the gates of these channels over the median gate.",
        "timesteps": f"At {block}: {what}. Massive there: {'; '.join(massive_at) or 'none at any of these timesteps'}.",
        "modulation": f"All channels of {block} at t = {time:g}, on a logarithmic scale; lines: {what}.",
        "features": "Similarity: mean cosine with the neighbours, black 0.5 or less, white 1. Mean over the pictures: "
        + ", ".join(f"{kind} {value:.2f}" for kind, value in likeness.items())
        + f". Of AdaLN + discard, {discarded}.",
    }


def _listed(channels: Sequence[int]) -> str:
    return ", ".join(map(str, channels)) or "none"
