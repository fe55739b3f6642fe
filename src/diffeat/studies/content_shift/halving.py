"""Which techniques, at which strength, together? Found under a budget of denoiser rows, ending in a recipe.

All candidates start on a few pictures; each round doubles the pictures and keeps the better half, without those that
the intervals already rule out (successive halving, paired throughout). The single techniques that are left are then
combined. In the end the cheapest candidate wins among those that are not clearly worse than the best one; where nothing
helps, the base wins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations as subsets
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffeat.backbones import Backbone, remembered
from diffeat.errors import InvalidValueError
from diffeat.evaluation.result import Tabled
from diffeat.extraction import Reading
from diffeat.features import ImageLike
from diffeat.studies.content_shift.gating import without_effect
from diffeat.studies.content_shift.meter import STAGES, GateSettings, ShiftMeter, Stage
from diffeat.studies.content_shift.verdict import Verdict, judge
from diffeat.techniques import Combination, Custom, Technique
from diffeat.techniques.combination import Combinable

BASE = Combination()


class Scorer(Protocol):
    """Measures a combination on pictures; the search knows nothing else of models."""

    @property
    def pictures(self) -> int: ...
    @property
    def spent(self) -> float: ...
    def shifts(self, combination: Combination, pictures: Sequence[int]) -> NDArray[np.float64]: ...
    def cost(self, combination: Combination) -> float: ...


@dataclass(frozen=True)
class Round:
    """What was known after a round: pictures used, and each candidate's verdict against the base."""

    pictures: int
    verdicts: dict[str, Verdict]
    kept: tuple[str, ...]
    spent: float


@dataclass(frozen=True, repr=False)
class SearchResult(Tabled):
    """Where a search ended.

    Attributes:
        verdict: Of it against the base; none if the base was chosen.
        recipe: The recipe with the combination.
        warnings: What was searched in vain.
    """

    chosen: Combination
    verdict: Verdict | None
    rounds: tuple[Round, ...]
    spent: float
    reason: str
    recipe: Reading | None = None
    warnings: tuple[str, ...] = ()

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        return self.chosen.label, {"because": self.reason, "rounds": len(self.rounds)}

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: every round's candidates, the best first."""
        rows = [
            [str(r.pictures), name, v.short(), "kept" if name in r.kept else ""]
            for r in self.rounds
            for name, v in sorted(r.verdicts.items(), key=lambda item: -item[1].gain)
        ]
        return ["pictures", "candidate", "verdict", ""], rows

    def __str__(self) -> str:
        lines = [f"{r.pictures} pictures: {', '.join(r.kept) or 'nothing'} left" for r in self.rounds]
        lines += [f"Warning: {warning}" for warning in self.warnings]
        return "\n".join([*lines, f"Chosen: {self.chosen.label}. {self.reason}", f"{self.spent:.0f} denoiser rows."])


def candidates_of(techniques: Sequence[Combinable], strengths: Sequence[float] = (0.5, 1.0)) -> list[Combination]:
    """Every technique as it is given, and at other strengths where it has one (as shares of the given one)."""
    found: dict[str, Combination] = {}
    for combination in map(Combination.of, techniques):
        found.setdefault(combination.key, combination)
        for share in strengths:
            other = Combination(_scaled(t, share) for t in combination)
            found.setdefault(other.key, other)
    return list(found.values())


def _scaled(technique: Technique | Custom, share: float) -> Technique | Custom:
    if not isinstance(technique, Technique) or technique.strength is None:
        return technique
    return technique.at(share * getattr(technique, technique.strength))


def run_search(
    scorer: Scorer, candidates: Sequence[Combination], budget: float, start: int = 8, margin: float = 0.02
) -> SearchResult:
    """The search itself, which spends ``budget`` denoiser rows at most, but runs one round at least."""
    if not candidates:
        raise InvalidValueError("There are no techniques to search.")
    seen: dict[str, NDArray[np.float64]] = {}
    names = {c.key: c for c in (BASE, *candidates)}
    alive = [c.key for c in candidates]
    rounds: list[Round] = []
    count, done, combined = min(start, scorer.pictures), 0, False
    while True:
        for key in (BASE.key, *alive):
            have = len(seen.get(key, ()))
            if have < count:
                shifts = scorer.shifts(names[key], range(have, count))
                seen[key] = np.concatenate([seen[key], shifts]) if have else shifts
        verdicts = {key: judge(seen[BASE.key][:count], seen[key][:count], margin=margin) for key in alive}
        alive = _survivors(alive, verdicts)
        labelled = {names[k].label: v for k, v in verdicts.items()}
        rounds.append(Round(count, labelled, tuple(names[k].label for k in alive), scorer.spent))
        done = count
        if not alive:
            return SearchResult(BASE, None, tuple(rounds), scorer.spent, "No technique helps on these pictures.")
        if not combined and len(alive) <= 4:
            combined = True
            for many in _combined([names[k] for k in alive]):
                if many.key not in names:
                    names[many.key] = many
                    alive.append(many.key)
        elif count == scorer.pictures:
            break
        count = min(2 * count, scorer.pictures)
        missing = {k: max(0, count - len(seen.get(k, ()))) for k in (BASE.key, *alive)}
        if scorer.spent + sum(scorer.cost(names[k]) * pictures for k, pictures in missing.items()) > budget:
            break
    measured = [k for k in alive if len(seen.get(k, ())) >= done]
    return _choose(scorer, measured, names, {k: seen[k][:done] for k in (BASE.key, *measured)}, rounds, margin)


def _survivors(alive: list[str], verdicts: Mapping[str, Verdict]) -> list[str]:
    ranked = sorted((k for k in alive if verdicts[k].gain > 0), key=lambda k: -verdicts[k].gain)
    if not ranked:
        return []
    best = verdicts[ranked[0]]
    possible = [k for k in ranked if verdicts[k].high >= best.low]
    return possible[: max(2, (len(alive) + 1) // 2)]


def _combined(singles: Sequence[Combination]) -> list[Combination]:
    """All that can be put together of what is left; one strength of each technique."""
    found = []
    for size in range(2, len(singles) + 1):
        for chosen in subsets(singles, size):
            techniques = [t for c in chosen for t in c]
            plain = {t.null().key for t in techniques if isinstance(t, Technique)}
            if len(plain) < len(techniques):
                continue  # the same technique twice
            try:
                found.append(Combination(techniques))
            except InvalidValueError:
                continue
    return found


def _choose(
    scorer: Scorer,
    alive: Sequence[str],
    names: Mapping[str, Combination],
    table: Mapping[str, NDArray[np.float64]],
    rounds: Sequence[Round],
    margin: float,
) -> SearchResult:
    verdicts = {k: judge(table[BASE.key], table[k], margin=margin) for k in alive}
    helping = [k for k in alive if verdicts[k].call == "helps"]
    if not helping:
        unsure = [names[k].label for k in alive if verdicts[k].call == "cannot tell"]
        why = f"It cannot be told whether {' or '.join(unsure)} helps" if unsure else "All that are left are harmless"
        return SearchResult(BASE, None, tuple(rounds), scorer.spent, f"{why}; the base is kept.")
    best = max(helping, key=lambda k: verdicts[k].gain)
    total = table[BASE.key].mean()
    worse = {k: (table[k].mean() - table[best].mean()) / total for k in helping}
    close = [
        k for k in helping if k == best or worse[k] <= margin or judge(table[best], table[k], margin=margin).high >= 0
    ]
    chosen = min(close, key=lambda k: (scorer.cost(names[k]), worse[k]))
    reason = f"It {verdicts[chosen]}"
    if chosen != best:
        reason += f", and costs less than {names[best].label}, which is not clearly better"
    return SearchResult(names[chosen], verdicts[chosen], tuple(rounds), scorer.spent, reason + ".")


class _MeterScorer:
    def __init__(self, meter: ShiftMeter, at: tuple[str, str]) -> None:
        self._meter, self._at = meter, at
        self.pictures = len(meter.pictures)

    @property
    def spent(self) -> float:
        return self._meter.calls

    def shifts(self, combination: Combination, pictures: Sequence[int]) -> NDArray[np.float64]:
        return self._meter.measure(combination, pictures=list(pictures))[self._at]

    def cost(self, combination: Combination) -> float:
        settings = self._meter.settings
        return settings.seeds * (settings.steps + 1) * combination.calls()


@remembered()
def search(
    backbone: Backbone,
    images: Sequence[ImageLike],
    techniques: Mapping[str, Combinable] | Sequence[Combinable],
    recipe: Reading,
    *,
    budget: float,
    settings: GateSettings | None = None,
    strengths: Sequence[float] = (0.5, 1.0),
    timesteps: Sequence[float] = (),
    stage: Stage = "img2img",
) -> SearchResult:
    """Search on a model.

    Args:
        techniques: Singles or combinations; LoRA checkpoints are just several LoRAs.
        recipe: What the found techniques are put into.
        budget: Denoiser rows.
        strengths: Shares of the given scales to try.
        timesteps: Where the chosen combination is measured by its features; the recipe takes the one with the
            largest sure gain (shift itself grows with t whatever the technique, so shifts do not compare).
        stage: What decides: img2img, operating or features.

    Raises:
        InvalidValueError: Nothing to search, an unknown stage, or a technique that cannot change what a recipe reads.
    """
    settings = settings or GateSettings()
    if stage not in STAGES:
        raise InvalidValueError(f"A stage is {', '.join(STAGES[:-1])} or {STAGES[-1]}, got {stage!r}.")
    given = [Combination.of(t) for t in (techniques.values() if isinstance(techniques, Mapping) else techniques)]
    candidates = candidates_of(given, strengths)
    for candidate in candidates:
        candidate.check_reading()
    with ShiftMeter(backbone, images, recipe, settings) as meter:
        scorer = _MeterScorer(meter, (stage, settings.deciding(stage)))
        found = run_search(scorer, candidates, budget, margin=settings.margin)
    chosen = recipe.replace(techniques=found.chosen.content() or None, name=f"{recipe.name}-gate")
    if timesteps and len(found.chosen):
        best = _best_timestep(backbone, images, chosen, settings, timesteps)
        chosen = chosen.replace(**{"trajectory.timesteps": [best]})
    return replace(found, recipe=chosen, warnings=tuple(without_effect(given, recipe.prompt)))


def _best_timestep(
    backbone: Backbone, images: Sequence[ImageLike], recipe: Reading, settings: GateSettings, timesteps: Sequence[float]
) -> float:
    at = ("features", settings.feature_measures[0])
    sure: dict[float, float] = {}
    for t in timesteps:
        with ShiftMeter(backbone, images, recipe.replace(**{"trajectory.timesteps": [t]}), settings) as meter:
            base, found = meter.measure(BASE)[at], meter.measure(Combination.of(recipe.techniques))[at]
        sure[t] = judge(base, found, margin=settings.margin).low
    return max(sure, key=lambda t: sure[t])
