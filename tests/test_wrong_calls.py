"""What functions of the rooms cannot use is told in one line, and never taken for something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from diffeat.errors import InvalidValueError
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from diffeat.refinement import concatenate, low_pass, mean_of_maps, resize_map, shrink_map
from diffeat.tasks.correspondence import heat_map, strongest_matches
from diffeat.tasks.propagation import boundary_score, region_score
from diffeat.tasks.segmentation import boundary_counts

MAP = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
FEATURES = FeatureMap({"x": MAP}, FrameSpec("squash", (32, 32)).frame((64, 48)), "x")
SMALL, LARGE = (np.ones((n, n), bool) for n in (4, 5))
LABELS = np.full((4, 4), 7)

CALLS: dict[str, tuple[Callable[[], Any], str]] = {
    "a heat map of two points": (lambda: heat_map(FEATURES, FEATURES, [[3, 4], [5, 6]]), "one point"),
    "no matches": (lambda: strongest_matches(FEATURES, FEATURES, 0), "not 0"),
    "masks of two sizes": (lambda: boundary_score(SMALL, LARGE), r"\(4, 4\) and \(5, 5\)"),
    "masks that numpy would stretch": (lambda: region_score(SMALL, SMALL[:1]), r"\(4, 4\) and \(1, 4\)"),
    "label maps of two sizes": (lambda: boundary_counts(LABELS, LABELS[:3], 8), r"\(4, 4\) and \(3, 4\)"),
    "a label beyond the classes": (lambda: boundary_counts(LABELS, LABELS, 3), "7 is none of the 3"),
    "a negative label": (lambda: boundary_counts(-LABELS, LABELS, 8), "-7 is none of the 8"),
    "a grid without cells": (lambda: resize_map(MAP, (0, 4)), r"not \(0, 4\)"),
    "shrunk by nothing": (lambda: shrink_map(MAP, 0), "not by 0"),
    "no cycles": (lambda: low_pass(MAP, 0), "not 0"),
    "no maps to join": (lambda: concatenate([]), "no maps"),
    "no maps to average": (lambda: mean_of_maps([]), "no maps"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_call_is_told(name: str) -> None:
    call, said = CALLS[name]
    with pytest.raises(InvalidValueError, match=said) as caught:
        call()
    assert "\n" not in str(caught.value)
