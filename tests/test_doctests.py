"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
from importlib import import_module

import pytest

MODULES = [
    *("evaluation.intervals", "tasks.correspondence.keypoints", "trajectories.noise"),
    *("backbones.hub", "backbones.named", "extraction.needs", "interfaces.metrics", "interfaces.module"),
    *("interfaces.sklearn", "reproduce.table"),
    *("geometry.frame", "geometry.spec", "refinement.maps", "refinement.massive"),
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name: str) -> None:
    outcome = doctest.testmod(import_module(f"diffeat.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0
