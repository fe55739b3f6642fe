"""The paper's candidate lists, from the configurations of the real models and without weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from diffeat.errors import InvalidValueError
from diffeat.studies.selection.paper import Name, paper_verdicts
from support.selection import catalogue, sd15, sdxl

REPEATS = range(3)


def gdf_names(build: Callable[[], nn.Module]) -> list[str]:
    return [alias for a in catalogue(build) for alias in a.aliases if alias.startswith("gdf:")]


def of_tables_sdxl() -> set[str]:
    """Tables 4 and 5 of the paper, written out."""
    found = {"up-level0-upsampler-out"}
    for r in REPEATS:
        found |= {f"up-level0-repeat{r}-res-out", f"up-level0-repeat{r}-vit-out"}
        found |= {f"up-level1-repeat{r}-res-out", f"up-level1-repeat{r}-vit-out"}
        found |= {f"up-level0-repeat{r}-vit-block{b}-{t}" for b in (0, 1, 3, 5, 7, 9) for t in ("cross-q", "out")}
        found |= {f"up-level1-repeat{r}-vit-block{b}-{t}" for b in (0, 1) for t in ("cross-q", "out")}
    return found | {f"up-level1-repeat2-vit-block{b}-self-k" for b in (0, 1)}


def of_table_sd15() -> set[str]:
    """Table 6 of the paper, written out."""
    found = {"up-level2-upsampler-out"}
    for r in REPEATS:
        for level in (1, 2):
            found |= {f"up-level{level}-repeat{r}-{t}" for t in ("res-out", "vit-out")}
            found |= {f"up-level{level}-repeat{r}-vit-block0-{t}" for t in ("cross-q", "out")}
        found |= {f"up-level3-repeat{r}-vit-block0-self-{t}" for t in "qk"}
    return found | {f"up-level2-repeat2-vit-block0-self-{t}" for t in "qk"}


@pytest.mark.parametrize(
    ("build", "pool", "kept"),
    [(sd15, 197, of_table_sd15()), pytest.param(sdxl, 279, of_tables_sdxl(), marks=pytest.mark.slow)],
    ids=["sd15", "sdxl"],
)
def test_candidates_are_those_of_the_tables(build, pool: int, kept: set[str]) -> None:
    names = gdf_names(build)
    verdicts = paper_verdicts(names)
    assert len(verdicts) == pool
    assert {n.removeprefix("gdf:") for n, v in verdicts.items() if v.kept} == kept
    assert len(kept) == (33 if build is sd15 else 63)
    assert all(why.startswith("by name: ") for v in verdicts.values() if not v.kept for _, why in v.reasons)
    assert all(v.reasons for v in verdicts.values() if not v.kept)


def test_a_reason_names_its_property() -> None:
    verdicts = paper_verdicts(gdf_names(sd15))
    of = {n.removeprefix("gdf:"): v.reasons[0][0] for n, v in verdicts.items() if not v.kept}
    assert of["down-level1-repeat0-vit-out"] == of["up-level3-repeat2-vit-out"] == of["mid-vit-out"] == "noise"
    assert of["up-level1-repeat0-vit-block0-self-q"] == "locality"
    assert of["up-level0-repeat1-res-out"] == "granularity"
    assert of["up-level2-repeat1-vit-block0-self-v"] == "noise"


def test_a_name_taken_apart() -> None:
    assert Name.parse("gdf:up-level1-repeat2-vit-block3-cross-q") == Name("up", 1, 2, "cross-q", 3)
    assert Name.parse("down-level0-downsampler-out") == Name("down", 0, -1, "downsampler-out", -1)
    assert Name.parse("gdf:vit-block3-out") is None


def test_names_of_a_transformer_are_refused() -> None:
    with pytest.raises(InvalidValueError, match="measured"):
        paper_verdicts(["gdf:vit-block0-out"])
