"""Content shift: how far reconstructions and features are from the picture, and which techniques bring them closer."""

from diffeat.content_shift.gate import GateResult, Variant, gate
from diffeat.content_shift.laplacian import paper_laplacian
from diffeat.content_shift.meter import GateSettings, ShiftMeter
from diffeat.content_shift.search import SearchResult, search
from diffeat.content_shift.verdict import Verdict, judge

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
