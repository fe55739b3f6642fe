"""Whether what the paper of Generic Diffusion Feature saw holds on a model, in sentences with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from diffeat.studies.selection.properties import Measurement, attention_shifts, fine_ratios
from diffeat.studies.selection.rules import judge


def observations(measurement: Measurement) -> list[str]:
    properties = measurement.properties
    stage: dict[str, list[float]] = {}
    for p in properties:
        if p.kind in ("resnet", "vit", "block", "sampler"):
            stage.setdefault(p.stage, []).append(p.measured.noise)
    noise = {name: _mean(values) for name, values in stage.items()}
    lines = []
    down = [noise[s] for s in noise if s.startswith("down")]
    up = [noise[s] for s in noise if s.startswith("up")]
    if len(down) > 1 and len(up) > 1:
        falls = all(a >= b - 0.02 for a, b in pairwise(down))
        lines.append(
            f"The noise {'falls' if falls else 'does not fall steadily'} through the down stage "
            f"({_list(down)}), as the paper {'says' if falls else 'would have it'}."
        )
        half = len(up) // 2
        returns = _mean(up[half:]) > _mean(up[:half])
        lines.append(
            f"It {'returns' if returns else 'does not return'} in the later half of the up stage ({_list(up)})"
            + ("." if returns else ", unlike in the paper.")
        )
    own = [p.measured for p in properties if p.id.endswith(("attn1.q", "attn1.k"))]
    cross = [p.measured for p in properties if p.id.endswith("attn2.q")]
    if own and cross:
        a, b = _mean([m.concentration for m in own]), _mean([m.concentration for m in cross])
        agrees = a > b + 0.02
        lines.append(
            f"Self-attention queries and keys are {'more' if agrees else 'not more'} local than cross-attention "
            f"queries (concentration {a:.2f} and {b:.2f}){'' if agrees else ', unlike in the paper'}."
        )
    shifts = attention_shifts(measurement)
    if shifts:
        average = _mean(list(shifts.values()))
        does = "makes features more local" if average > 0 else "mixes features across the picture"
        lines.append(
            f"Self-attention {does}: concentration of its output minus its values is {average:+.2f} on average."
        )
    ratios = list(fine_ratios(measurement).values())
    if ratios:
        more = sum(ratio > 1 for ratio in ratios)
        lines.append(
            f"{more} of {len(ratios)} increments have more fine noise than the stream they are added to (ratio "
            f"{np.median(ratios):.2f} in the median); the paper sees it in all."
        )
    if any(alias.startswith("gdf:up-level") and "-vit-" in alias for p in properties for alias in p.aliases):
        ours, paper = ({id for id, v in judge(measurement, rules).items() if v.kept} for rules in ("measured", "paper"))
        lines.append(
            f"The paper's rules, by names, keep {len(paper)} activations; the default rules keep "
            f"{len(paper & ours)} of them and {len(ours - paper)} others."
        )
    return lines


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{v:.2f}" for v in values)
