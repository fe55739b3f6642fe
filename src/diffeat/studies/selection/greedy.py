"""Choosing a set: forward selection under a budget of channels, with redundancy to decide what the labels cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diffeat.errors import InvalidValueError
from diffeat.progress import Progress, silent
from diffeat.studies.selection.probes import Probe
from diffeat.studies.selection.properties import Property
from diffeat.studies.selection.score import Score


@dataclass(frozen=True)
class Step:
    """One activation joined.

    Attributes:
        depth: Share of the denoiser's work that the set needs.
        combined: Mean over probes of the score over the best single score.
        alike: CKA with the chosen activation most like it; 0 for the first.
        rivals: Candidates that scored within one standard error of the best, this one included.
    """

    added: str
    ids: tuple[str, ...]
    channels: int
    depth: float
    scores: dict[str, Score]
    combined: float
    alike: float
    rivals: tuple[str, ...]


def rank_singles(candidates: Sequence[Property], probes: Sequence[Probe]) -> dict[str, dict[str, Score]]:
    """The scores of every candidate alone, by id and probe."""
    return {p.id: {probe.name: probe.score([p.id]) for probe in probes} for p in candidates}


def check_budget(candidates: Sequence[Property], budget: int) -> None:
    """Raise InvalidValueError unless some candidate fits."""
    smallest = min(candidates, key=lambda p: p.channels)
    if smallest.channels > budget:
        raise InvalidValueError(
            f"The budget of {budget} channels is smaller than the smallest candidate ({smallest.id}, "
            f"{smallest.channels} channels). Raise the budget to {smallest.channels} at least."
        )


def forward_selection(
    candidates: Sequence[Property],
    probes: Sequence[Probe],
    alike: Callable[[str, str], float],
    budget: int,
    *,
    singles: dict[str, dict[str, Score]] | None = None,
    most: int = 8,
    progress: Progress = silent,
) -> list[Step]:
    """Add, one at a time, the activation that helps most, as long as one helps and the budget allows.

    Candidates within one standard error (paired bootstrap over pairs or pictures) of the best are a tie; of these the
    one least like what is chosen already is taken, so that a step does not go to a copy by luck.

    Args:
        singles: Scores of the candidates alone, where they are known.
    """
    if not candidates:
        raise InvalidValueError("There is no candidate to choose from: every activation was rejected.")
    check_budget(candidates, budget)
    singles = singles or rank_singles(candidates, probes)
    references = {probe.name: max(1e-9, *(s[probe.name].value for s in singles.values())) for probe in probes}
    by_id = {p.id: p for p in candidates}
    steps: list[Step] = []
    chosen: list[str] = []
    for _ in progress(range(most), total=most, desc="choose"):
        spent = sum(by_id[id].channels for id in chosen)
        open_ids = [p.id for p in candidates if p.id not in chosen and spent + p.channels <= budget]
        if not open_ids:
            break
        tried = {id: {p.name: p.score([*chosen, id]) for p in probes} if chosen else singles[id] for id in open_ids}
        values = {
            id: float(np.mean([score.value / references[name] for name, score in scores.items()]))
            for id, scores in tried.items()
        }
        best = max(values, key=values.__getitem__)
        if steps and values[best] <= steps[-1].combined:
            break
        near = {id: max((alike(id, other) for other in chosen), default=0.0) for id in open_ids}
        rivals = _rivals(tried, values, best, references)
        floor = steps[-1].combined if steps else 0.0
        worthy = [id for id in rivals if values[id] > floor] if chosen else [best]
        added = min(worthy, key=lambda id: (near[id], -values[id]))
        chosen.append(added)
        steps.append(
            Step(
                added,
                tuple(chosen),
                spent + by_id[added].channels,
                max(by_id[id].depth for id in chosen),
                tried[added],
                values[added],
                near[added],
                tuple(rivals),
            )
        )
    return steps


def _rivals(
    tried: dict[str, dict[str, Score]], values: dict[str, float], best: str, references: dict[str, float]
) -> list[str]:
    """The best candidate and those it does not surely beat, of the first six."""
    order = sorted(values, key=values.__getitem__, reverse=True)[:6]
    draws = {
        id: np.mean([score.resampled() / references[name] for name, score in tried[id].items()], axis=0) for id in order
    }
    return [id for id in order if values[best] - values[id] <= float(np.std(draws[best] - draws[id])) or id == best]
