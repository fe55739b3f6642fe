"""Rules that keep or leave out activations, in a file one can read and change.

A rule set is a YAML list; each rule names the property it is about, the conditions that must all hold, and the reason,
into which the values that it tests are written. ``measured`` is the default set; ``paper`` judges by names as the
paper of Generic Diffusion Feature does (:mod:`diffeat.studies.selection.paper`).

The thresholds of ``measured`` were set on the embedded UNet at timestep 261, so that nearly the verdicts of the paper
come out on it: input, output, first and last levels go for noise, the coarsest level for lack of cells, self-attention
queries and keys for locality except late in the up stage. There is no threshold that rejects increments for noise, as
the paper does: many have no more fine noise than their stream. They go by kind, and the reason says so.
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean, shown
from diffeat.explain import InvalidFieldsError
from diffeat.extraction.recipe import read_yaml
from diffeat.files import read_text
from diffeat.studies.selection.meter import Measured
from diffeat.studies.selection.paper import Verdict, paper_verdicts
from diffeat.studies.selection.properties import STREAMS, Measurement, Property, fine_ratios

_COMPARE: dict[str, Callable[..., bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(r"\s*(\w+)\s*(>=|<=|==|>|<|\bin\b|\blike\b)\s*(.+?)\s*")
_SAME = 0.9999
_MEASURED = Path(__file__).parent / "measured.yaml"
_WORDS = ("id", "kind", "stage")
FIELDS = (
    *(*_WORDS, "channels", "cells", "stride", "depth", "noise_ratio", "fine_ratio"),
    *(field.name for field in fields(Measured)),
)


class Rule(BaseModel):
    """One rule; see the module docstring."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    property: str
    when: tuple[str, ...]
    reason: str

    @field_validator("when")
    @classmethod
    def _readable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            _parsed(text)
        return value

    def rejects(self, values: Mapping[str, str | float | None]) -> bool:
        """Whether all conditions hold; a value that was not measured holds none."""
        return all(_holds(text, values) for text in self.when)

    def thresholds(self) -> list[tuple[str, float]]:
        """Fields that are compared with a number, and the number."""
        parsed = (_parsed(text) for text in self.when)
        return [(field, float(limit)) for field, sign, limit in parsed if sign in _COMPARE and field not in _WORDS]

    def explained(self, values: Mapping[str, str | float | None]) -> str:
        """The reason with the values in it."""
        return self.reason.format_map(values)


@cache
def _parsed(text: str) -> tuple[str, str, str]:
    found = _CONDITION.fullmatch(text)
    if not found:
        raise ValueError(f"condition {text!r} is not of the form 'field > 0.5', 'field in a, b' or 'field like glob'")
    if found[1] not in FIELDS:
        raise ValueError(f"there is no field {found[1]!r}. {did_you_mean(found[1], FIELDS)}".rstrip())
    if found[2] in _COMPARE and found[1] not in _WORDS:
        float(found[3])
    return found[1], found[2], found[3]


def _holds(text: str, values: Mapping[str, str | float | None]) -> bool:
    field, comparison, wanted = _parsed(text)
    value = values.get(field)
    if value is None:
        return False
    if comparison == "in":
        return str(value) in [part.strip() for part in wanted.split(",")]
    if comparison == "like":
        return fnmatchcase(str(value), wanted)
    return _COMPARE[comparison](value, type(value)(wanted) if isinstance(value, str) else float(wanted))


def measured_rules_text() -> str:
    return _MEASURED.read_text(encoding="utf-8")


def load_rules(name_or_path: str | Path) -> list[Rule]:
    """The rules of the set ``measured``, or of a YAML file.

    Raises:
        UnknownNameError: No such set or file.
        InvalidValueError: The file is not a list of rules; says which rule is wrong.
    """
    path = _MEASURED if str(name_or_path) == "measured" else Path(name_or_path)
    if not os.path.exists(path):
        raise UnknownNameError(
            f"There is no rule set {shown(str(name_or_path))}. Use measured, paper, or the path of a YAML file."
        )
    data = read_yaml(read_text(path, "rule file", 2**17), str(path))
    if not isinstance(data, list):
        raise InvalidValueError(f"{path} must hold a list of rules, got {type(data).__name__}.")
    rules = []
    for number, item in enumerate(data, 1):
        try:
            rules.append(Rule.model_validate(item))
        except ValidationError as error:
            raise InvalidFieldsError(f"{path.name}, rule {number},", error, Rule) from None
    return rules


def judge(measurement: Measurement, rules: str | Path | Sequence[Rule] = "measured") -> dict[str, Verdict]:
    """Keep or reject every measured activation.

    Args:
        rules: ``"measured"``, ``"paper"``, the path of a rule file, or rules.

    Returns:
        A verdict by id; activations that are the very tensor of an earlier one are rejected too.

    Raises:
        InvalidValueError: The set ``paper`` meets a model that is no UNet with attention.
    """
    if rules == "paper":
        return _without_copies(measurement, _by_paper(measurement))
    loaded = load_rules(rules) if isinstance(rules, (str, Path)) else list(rules)
    calm = [p.measured.noise for p in measurement.properties if p.kind in (*STREAMS, "sampler")]
    least = max(min(calm, default=1.0), 1e-3)
    fine = fine_ratios(measurement)
    verdicts = {}
    for p in measurement.properties:
        values = p.values() | {"noise_ratio": p.measured.noise / least, "fine_ratio": fine.get(p.id)}
        broken: dict[str, str] = {}
        for rule in loaded:
            if rule.rejects(values):
                broken.setdefault(rule.property, rule.explained(values))
        verdicts[p.id] = Verdict(not broken, tuple(broken.items()))
    return _without_copies(measurement, verdicts)


def _by_paper(measurement: Measurement) -> dict[str, Verdict]:
    names = {alias: p.id for p in measurement.properties for alias in p.aliases if alias.startswith("gdf:")}
    judged = {names[name]: verdict for name, verdict in paper_verdicts(names).items()}
    outside = Verdict(False, (("pool", "not in the pool the paper starts from"),))
    return {p.id: judged.get(p.id, outside) for p in measurement.properties}


def _without_copies(measurement: Measurement, verdicts: dict[str, Verdict]) -> dict[str, Verdict]:
    kept: list[tuple[int, Property]] = []
    result = dict(verdicts)
    for i, p in enumerate(measurement.properties):
        if not verdicts[p.id].kept:
            continue
        same = next((q for k, q in kept if _alike(p, q) and float(measurement.redundancy[i, k]) >= _SAME), None)
        if same is not None:
            result[p.id] = Verdict(False, (("redundancy", f"the same tensor as {same.id}"),))
        else:
            kept.append((i, p))
    return result


def _alike(one: Property, other: Property) -> bool:
    return (one.channels, one.grid) == (other.channels, other.grid)
