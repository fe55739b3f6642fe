"""GATE with numbers: does a technique bring reconstructions and features closer to the picture?

Each technique is measured at two places, paired with the base (same latents, same noise):

* *img2img*: the picture is noised to a high strength and denoised to the end (SDEdit), where differences are large;
* *operating*: one call at the timestep where features are read; the estimate of the clean picture, and the features
  against those of the clean latent.

Beside each technique run its controls: the *null* twin (must equal the base exactly) and, for techniques that look at
the picture, the *shuffled* twin that is shown another picture (must not help).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from diffeat.backbones import Backbone, remembered
from diffeat.errors import InvalidValueError
from diffeat.evaluation.result import Tabled
from diffeat.extraction import Reading
from diffeat.features import ImageLike
from diffeat.notebook import Html, notes
from diffeat.progress import Progress, silent
from diffeat.studies.content_shift.measures import LAPLACIAN_DEFECTS
from diffeat.studies.content_shift.meter import STAGES, GateSettings, ShiftMeter, Shifts, Stage
from diffeat.studies.content_shift.verdict import Verdict, judge
from diffeat.techniques import Combination, Guidance, Prompt
from diffeat.techniques.combination import Combinable

BASE = "base"


@dataclass(frozen=True)
class Variant:
    """One thing to measure: the base, a technique, or a control of one."""

    name: str
    combination: Combination
    role: Literal["base", "technique", "null", "shuffled"] = "technique"
    of: str = ""

    @property
    def title(self) -> str:
        """Name of a row: controls stand indented under their technique."""
        return f"   ↳ {self.role}" if self.of else self.name


@dataclass(frozen=True, repr=False)
class GateResult(Tabled):
    """All shifts, and the verdicts that follow.

    Attributes:
        base: The recipe that was measured.
        verdicts: By variant, then (stage, measure).
        ceiling: Shift of encoding and decoding alone, by picture measure.
        calls: Denoiser rows that were run.
        precision: In which the model ran.
    """

    settings: GateSettings
    base: Reading
    variants: tuple[Variant, ...]
    pictures: tuple[str, ...]
    shifts: dict[str, Shifts]
    verdicts: dict[str, dict[tuple[str, str], Verdict]]
    ceiling: dict[str, float]
    timesteps: dict[str, float]
    calls: float = 0
    warnings: tuple[str, ...] = ()
    precision: str = ""

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        return self.base.name, {"gains most": self.ranking()[0], "pictures": len(self.pictures)}

    def _details(self) -> Iterator[Html]:
        yield from super()._details()
        yield notes(self.warnings)

    def deciding(self, variant: str, stage: Stage = "img2img") -> Verdict | None:
        """The verdict by the first measure of a stage."""
        return self.verdicts.get(variant, {}).get((stage, self.settings.deciding(stage)))

    def ranking(self) -> list[str]:
        """Techniques from the largest gain at img2img to the smallest."""

        def gain(name: str) -> float:
            verdict = self.deciding(name)
            return float("-inf") if verdict is None else verdict.gain

        return sorted((v.name for v in self.variants if v.role == "technique"), key=gain, reverse=True)

    @property
    def recipe(self) -> Reading:
        """The recipe with the technique that gains most, if it helps; else as it was."""
        best = self.ranking()[0]
        verdict = self.deciding(best)
        if verdict is None or verdict.call != "helps":
            return self.base
        combination = next(v.combination for v in self.variants if v.name == best)
        return self.base.replace(techniques=combination.content(), name=f"{self.base.name}-gate")

    def merge(self, other: GateResult) -> GateResult:
        """The result over the techniques of both, which were measured apart on the same pictures.

        Raises:
            InvalidValueError: Settings, recipes or pictures differ.
        """
        if (self.settings, self.base, self.pictures) != (other.settings, other.base, other.pictures):
            raise InvalidValueError("Only results by the same settings and recipe, on the same pictures, are merged.")
        return replace(
            self,
            variants=(*self.variants, *(v for v in other.variants if v.role != "base")),
            shifts={**self.shifts, **other.shifts},
            verdicts={**self.verdicts, **other.verdicts},
            calls=self.calls + other.calls,
            warnings=tuple(dict.fromkeys((*self.warnings, *other.warnings))),
        )

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and rows: of every technique and control its verdicts by the deciding measures, and its cost."""
        measured: list[Stage] = [s for s in STAGES if any(self.deciding(v.name, s) is not None for v in self.variants)]
        heads = [f"{s} ({self.settings.deciding(s)})" for s in measured]
        rows = []
        for variant in self.variants:
            if variant.role == "base":
                continue
            verdicts = [self.deciding(variant.name, s) for s in measured]
            first = next((v for v in verdicts if v is not None), None)
            cells = ["nothing to reduce" if v is None else v.short() for v in verdicts]
            wins = "" if first is None else f"{first.wins:.0%}"
            rows.append([variant.title, *cells, wins, f"{variant.combination.calls():.1f}"])
        return ["technique", *heads, "wins", "passes"], rows


@remembered()
def gate(
    backbone: Backbone,
    images: Sequence[ImageLike],
    techniques: Mapping[str, Combinable] | Sequence[Combinable],
    recipe: Reading,
    settings: GateSettings | None = None,
    progress: Progress = silent,
) -> GateResult:
    """Score techniques.

    Args:
        images: Pictures, best 30 or more, none of which a LoRA was trained on.
        recipe: Frame, text, conditioning options, activations, and (its first timestep) the operating point.

    Raises:
        DatasetError: Fewer than two pictures.
        InvalidValueError: A measure or setting that does not exist.
    """
    settings = settings or GateSettings()
    variants = variants_of(techniques, settings.controls, several=len(images) > 1)
    meter = ShiftMeter(backbone, images, recipe, settings)
    shifts: dict[str, Shifts] = {}
    with meter:
        for variant in progress(variants, total=len(variants), desc="gate"):
            shifts[variant.name] = meter.measure(variant.combination, shuffled=variant.role == "shuffled")
        ceiling = meter.ceiling()
    verdicts = {
        v.name: {
            at: judge(base, shifts[v.name][at], confidence=settings.confidence, margin=settings.margin)
            for at, base in shifts[BASE].items()
            if base.sum() > 0
        }
        for v in variants
        if v.role != "base"
    }
    return GateResult(
        settings,
        recipe,
        tuple(variants),
        tuple(p.name for p in meter.pictures),
        shifts,
        verdicts,
        ceiling,
        meter.timesteps,
        meter.calls,
        (
            *without_effect([v.combination for v in variants if v.role == "technique"], recipe.prompt),
            *_warnings(variants, shifts, verdicts, settings),
        ),
        str(backbone.dtype).removeprefix("torch."),
    )


def variants_of(
    techniques: Mapping[str, Combinable] | Sequence[Combinable], controls: bool, several: bool = True
) -> list[Variant]:
    if isinstance(techniques, Mapping):
        named = {name: Combination.of(t) for name, t in techniques.items()}
    else:
        combinations = [Combination.of(t) for t in techniques]
        named = {c.label: c for c in combinations}
        if len(named) < len(combinations):
            raise InvalidValueError("Two techniques have one name; give a mapping from names to techniques.")
    if not named or BASE in named:
        raise InvalidValueError(f"Give at least one technique, and none named {BASE!r}.")
    found = [Variant(BASE, Combination(), "base")]
    for name, combination in named.items():
        found.append(Variant(name, combination))
        if controls:
            found.append(Variant(f"{name} (null)", combination.null(), "null", name))
            if several and combination.per_image:
                found.append(Variant(f"{name} (shuffled)", combination, "shuffled", name))
    return found


def without_effect(combinations: Sequence[Combination], text: str) -> list[str]:
    """What guides away from the very text (``text``, if it gives none) that it guides to, and so does nothing."""
    found = []
    for combination in combinations:
        own = combination.one(Prompt)
        told = text if own is None or own == own.null() else own.text
        for guidance in combination.all(Guidance):
            if told is not None and told.strip() == guidance.negative.strip():
                found.append(
                    f"{combination.label} does nothing here: pictures have the text {told!r}, which is what it guides "
                    "away from. Give them a text (--prompt, or combine it with prompt:… or captions:…)."
                )
    return found


def _warnings(
    variants: Sequence[Variant],
    shifts: Mapping[str, Shifts],
    verdicts: Mapping[str, Mapping[tuple[str, str], Verdict]],
    settings: GateSettings,
) -> list[str]:
    found = [f"{LAPLACIAN_DEFECTS}." for name in settings.feature_measures if name == "laplacian"]
    for v in variants:
        if v.role == "null":
            worst = max(float(np.abs(shifts[v.name][at] - base).max()) for at, base in shifts[BASE].items())
            if worst > 0:
                found.append(f"{v.name} differs from the base by up to {worst:.2g}: do not trust {v.of}.")
        at = ("img2img", settings.measures[0])
        if v.role == "shuffled" and at in verdicts[v.name] and verdicts[v.name][at].call == "helps":
            found.append(f"{v.name} helps although it is shown another picture: {v.of} may help for another reason.")
    return found
