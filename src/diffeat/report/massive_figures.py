"""Figures of massive activations: magnitudes, depth, timestep, modulation, and what features look like."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from diffeat.extraction.reduce import Place
from diffeat.report.page import svg_of
from diffeat.studies.massive import Survey
from diffeat.viz import pca_colours
from diffeat.viz.grid import draw_grid

if TYPE_CHECKING:
    from mpl_toolkits.mplot3d import Axes3D

_INK, _SOFT, _BLUE = "#20242a", "#8a94a3", "#1f5fbf"
_COLOURS = ("#d1495b", "#edae49", "#00798c", "#7b4fa3", "#3a7d44", "#8c5e3c")
_TOKENS, _CHANNELS = 96, 192


def magnitudes(survey: Survey) -> Image.Image:
    """|x| over tokens and channels of one picture, for each kind of feature."""
    example = survey.examples[0]
    figure = Figure(figsize=(4.1 * len(example), 3.7))
    for k, (title, feature) in enumerate(example.items()):
        axes = cast("Axes3D", figure.add_subplot(1, len(example), k + 1, projection="3d"))
        size = feature.tensor.float().flatten(1).abs()
        kept = _pooled(size)
        channels = np.linspace(0, len(size) - 1, kept.shape[0])
        tokens = np.linspace(0, size.shape[1] - 1, kept.shape[1])
        # a curtain over the tokens for each channel, from the back to the front
        curtains = [[(tokens[0], 0), *zip(tokens, row, strict=True), (tokens[-1], 0)] for row in kept]
        share = kept.mean(1) / max(kept.mean(1).max(), 1e-12)
        colours = matplotlib.colormaps["YlOrRd"](0.25 + 0.75 * share)
        walls = PolyCollection(curtains, facecolors=colours, edgecolors=colours * 0.75, linewidths=0.25)
        axes.add_collection3d(walls, zs=channels, zdir="x")  # pyright: ignore[reportArgumentType] (stubs: one number)
        axes.view_init(elev=24, azim=-58)
        axes.set(xlabel="channel", ylabel="token", title=f"{title}: |x|", xlim=(0, len(size)), ylim=(0, tokens[-1]))
        axes.set_zlim(0, kept.max() * 1.02)
        axes.tick_params(labelsize=7, pad=0)
        axes.set_box_aspect((1.25, 1, 0.75))
    figure.subplots_adjust(left=0.01, right=0.96, bottom=0.04, top=0.93, wspace=0.06)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, facecolor="white")
    return Image.open(buffer)


def _pooled(size: Tensor) -> np.ndarray:
    """At most so many channels and tokens, each standing for the largest of its bin."""
    c, n = min(len(size), _CHANNELS), min(size.shape[1], _TOKENS)
    return F.adaptive_max_pool2d(size[None], (c, n))[0].numpy()


def depth(survey: Survey) -> str:
    """Largest channels and the median one, and the massive channels' gates, through the blocks."""
    time = survey.place.step
    stats = [survey.statistics[Place(b, time)] for b in survey.blocks]
    x = np.arange(len(stats))
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    ranked = torch.stack([s.mean_abs.sort(descending=True).values[:10] for s in stats])
    for rank in (r for r in (1, 2, 9) if r < ranked.shape[1]):
        top.plot(x, ranked[:, rank], color=_SOFT, lw=0.9, ls=":", label=f"{rank + 1}th largest" if rank == 9 else None)
    top.plot(x, [s.mean_abs.median().item() for s in stats], color=_INK, lw=1.4, label="median channel")
    for colour, channel in zip(_COLOURS, shown(survey), strict=False):
        top.plot(x, [s.mean_abs[channel].item() for s in stats], color=colour, lw=2, label=f"channel {channel}")
        shares = [_gate_share(survey.modulation[Place(b, time)].get("gate"), channel) for b in survey.blocks]
        bottom.plot(x, shares, color=colour, lw=1.4, marker="o", ms=3.5)
        massive = [channel in survey.detections[Place(b, time)].channels for b in survey.blocks]
        first = massive.index(True) if any(massive) else None
        if first is not None:
            top.plot(first, stats[first].mean_abs[channel], "v", color=colour, ms=9)
    bottom.axhline(1, color=_SOFT, lw=0.9)
    top.set(yscale="log", ylabel="mean |x| entering the block", title=f"through the depth, t = {time:g}")
    bottom.set(ylabel="|gate| / median |gate|", xlabel="block", yscale="log")
    top.legend(fontsize=8, frameon=False, ncols=3)
    step = max(1, len(x) // 20)
    bottom.set_xticks(x[::step], [str(i) for i in x[::step]])
    return svg_of(figure)


def over_time(survey: Survey) -> str:
    """The massive channels at the place, over timesteps."""
    block = survey.place.name
    stats = [survey.statistics[Place(block, t)] for t in survey.timesteps]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(survey.timesteps, [s.mean_abs.median() for s in stats], color=_INK, lw=1.4, label="median channel")
    for colour, channel in zip(_COLOURS, shown(survey), strict=False):
        size = torch.tensor([s.mean_abs[channel] for s in stats])
        left.plot(survey.timesteps, size, color=colour, lw=2, marker="o", ms=4, label=f"channel {channel}")
        ratio = [s.mean_abs[channel] / s.mean_abs.median() for s in stats]
        right.plot(survey.timesteps, ratio, color=colour, lw=2, marker="o", ms=4)
    rule = next(iter(survey.detections.values())).rule
    right.axhline(rule.ratio, color=_SOFT, lw=1, ls="--", label=f"detector: {rule.ratio:g}")
    left.set(xlabel="timestep", ylabel="mean |x|", title="size")
    right.set(xlabel="timestep", ylabel="over the median channel", title="ratio")
    for axes in (left, right):
        axes.legend(fontsize=8, frameon=False)
        axes.set_ylim(bottom=0)
    return svg_of(figure)


def modulation(survey: Survey) -> str:
    """Scale, shift and gate of all channels at the place, the massive ones marked."""
    parts = survey.modulation[survey.place]
    figure = Figure(figsize=(3.2 * len(parts), 3.1), layout="constrained")
    for axes, (name, values) in zip(figure.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        axes.hist(values.numpy(), bins=60, color="#c9d3e0")
        for colour, channel in zip(_COLOURS, shown(survey), strict=False):
            axes.axvline(float(values[channel]), color=colour, lw=1.8, label=f"channel {channel}")
        axes.set(title=name, yscale="log", ylabel="channels")
        axes.legend(fontsize=7, frameon=False)
    return svg_of(figure)


def local_similarity(feature: Float[Tensor, "c h w"]) -> Float[Tensor, "h w"]:
    """Mean cosine of each token with its eight neighbours; near 1 everywhere means features tell nothing apart."""
    unit = F.normalize(feature.float(), dim=0)
    patches = F.unfold(unit[None], 3, padding=1)[0].unflatten(0, (len(unit), 9))
    inside = F.unfold(torch.ones(1, 1, *unit.shape[1:]), 3, padding=1)[0]
    cosines = (patches * unit.flatten(1)[:, None]).sum(0)
    return ((cosines.sum(0) - 1) / (inside.sum(0) - 1)).view(unit.shape[1:])


def features(survey: Survey, pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures, and for each kind of feature its colours by PCA and its local similarity."""
    rows, cells = [], {}
    for row, (picture, example) in enumerate(zip(pictures, survey.examples, strict=True)):
        rows.append((Path(example["raw"].image).name, picture, {}))
        for kind, feature in example.items():
            tensor = feature.tensor.float()
            heat = matplotlib.colormaps["magma"](2 * local_similarity(tensor).clamp(0.5, 1).numpy() - 1)[..., :3]
            cells[row, f"{kind} · PCA"] = Image.fromarray(pca_colours([tensor])[0])
            cells[row, f"{kind} · similarity"] = Image.fromarray((heat * 255).astype(np.uint8))
    names = list(dict.fromkeys(name for _, name in cells))
    return draw_grid(rows, names, cells, {}, 200, Image.Resampling.NEAREST, "")


def shown(survey: Survey) -> list[int]:
    """The massive channels, or the largest one where there is none."""
    return survey.channels[: len(_COLOURS)] or survey.statistics[survey.place].top(1)


def _gate_share(gate: Tensor | None, channel: int) -> float:
    if gate is None:
        return float("nan")
    return float(gate[channel].abs() / gate.abs().median().clamp(min=1e-12))
