"""Studies of a model: procedures that end in a recipe, and in a result with a table.

:func:`select` chooses activations, :func:`gate` tells which techniques bring features closer to the picture,
:func:`find_massive` finds massive activations, :func:`sweep` scores a recipe at every timestep and block. Every result
has ``recipe``, what it ends in, and ``table()``, header and rows.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffeat.studies.content_shift import GateResult, GateSettings, SearchResult, gate, search
    from diffeat.studies.massive import Survey, find_massive
    from diffeat.studies.selection import Selection, SelectionSettings, select
    from diffeat.studies.sweeps import Sweep, sweep

_HOMES = {
    "GateResult": "content_shift",
    "GateSettings": "content_shift",
    "SearchResult": "content_shift",
    "Selection": "selection",
    "SelectionSettings": "selection",
    "Survey": "massive",
    "Sweep": "sweeps",
    "find_massive": "massive",
    "gate": "content_shift",
    "search": "content_shift",
    "select": "selection",
    "sweep": "sweeps",
}

__all__ = [
    "GateResult",
    "GateSettings",
    "SearchResult",
    "Selection",
    "SelectionSettings",
    "Survey",
    "Sweep",
    "find_massive",
    "gate",
    "search",
    "select",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"diffeat.studies.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'diffeat.studies' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
