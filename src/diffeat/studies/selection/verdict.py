"""Keep or reject, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """What a rule set says of one activation.

    Attributes:
        kept: Whether it stays a candidate.
        reasons: ``(property, reason)`` of every rule it breaks; empty if it is kept.
    """

    kept: bool
    reasons: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return "kept" if self.kept else "; ".join(f"{name}: {reason}" for name, reason in self.reasons)
