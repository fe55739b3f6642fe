"""Studies of a model: procedures that end in a recipe, and in a result with a table.

:func:`select` chooses activations, :func:`gate` tells which techniques bring features closer to the picture,
:func:`find_massive` finds massive activations, :func:`sweep` scores a recipe at every timestep and block
(:func:`sweep_parts` and :func:`sweep_words` what finds masks without training). Every result has ``recipe``, what it
ends in, and ``table()``, header and rows.
"""

from diffeat.studies.content_shift import GateResult, GateSettings, SearchResult, gate, search
from diffeat.studies.mask_sweeps import sweep_parts, sweep_words
from diffeat.studies.massive import Survey, find_massive
from diffeat.studies.selection import Selection, SelectionSettings, select
from diffeat.studies.sweeps import Sweep, sweep

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
    "sweep_parts",
    "sweep_words",
]
