"""Semantic correspondence: matching points, and scoring matches."""

from diffeat.tasks.correspondence.axis import sample_descriptors
from diffeat.tasks.correspondence.keypoints import PairRecord, PckResult, curve, pck, record_pair
from diffeat.tasks.correspondence.lattice import Lattice
from diffeat.tasks.correspondence.matching import (
    Matches,
    Matching,
    Target,
    heat_map,
    match,
    mutual_matches,
    strongest_matches,
)
from diffeat.tasks.correspondence.protocol import PROTOCOLS, Protocol, get_protocol

__all__ = [
    "PROTOCOLS",
    "Lattice",
    "Matches",
    "Matching",
    "PairRecord",
    "PckResult",
    "Protocol",
    "Target",
    "curve",
    "get_protocol",
    "heat_map",
    "match",
    "mutual_matches",
    "pck",
    "record_pair",
    "sample_descriptors",
    "strongest_matches",
]
