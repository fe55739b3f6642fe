"""Content shift: how far reconstructions and features are from the picture, and which techniques bring them closer."""

from diffeat.studies.content_shift.gating import GateResult, Variant, gate
from diffeat.studies.content_shift.halving import SearchResult, search
from diffeat.studies.content_shift.laplacian import paper_laplacian
from diffeat.studies.content_shift.meter import GateSettings, ShiftMeter
from diffeat.studies.content_shift.verdict import Verdict, judge

__all__ = [
    "GateResult",
    "GateSettings",
    "SearchResult",
    "ShiftMeter",
    "Variant",
    "Verdict",
    "gate",
    "judge",
    "paper_laplacian",
    "search",
]
