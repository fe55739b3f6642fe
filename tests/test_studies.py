"""The doors of the studies: light to open, shadowing nothing, and every result with a recipe and a table."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

import diffeat
from diffeat import studies, training
from diffeat.extraction import Recipe
from diffeat.studies import GateResult, GateSettings, SearchResult, Selection, Survey, Sweep
from diffeat.studies.content_shift.gating import Variant
from diffeat.studies.content_shift.verdict import judge
from diffeat.techniques import Combination, Prompt

ROOT = Path(diffeat.__file__).parent
DOORS = ["studies", "studies.selection", "studies.content_shift", "training"]


@pytest.mark.parametrize("door", DOORS)
def test_what_a_door_exports_is_there_and_hides_no_module(door: str) -> None:
    package = import_module(f"diffeat.{door}")
    folder = ROOT.joinpath(*door.split("."))
    modules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert list(package.__all__) == sorted(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name not in modules, f"diffeat.{door}.{name} hides a module"


@pytest.mark.parametrize("door", [studies, training])
def test_an_unknown_name_is_no_attribute(door) -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = door.no_such_name


@pytest.mark.parametrize("result", [GateResult, SearchResult, Selection, Survey, Sweep])
def test_every_result_ends_in_a_recipe_and_a_table(result: type) -> None:
    assert "recipe" in result.__annotations__ or isinstance(vars(result).get("recipe"), property)
    assert callable(result.table)


@pytest.mark.parametrize(("better", "told"), [(0.5, "a horse"), (1.5, None)])
def test_gate_ends_in_the_technique_that_helps_or_in_none(better: float, told: str | None) -> None:
    base = [[1.0], [2.0], [3.0], [2.5]]
    shifts = {"base": base, "words": [[better * x for x in row] for row in base]}
    verdicts = {"words": {("img2img", "pixel"): judge(shifts["base"], shifts["words"])}}
    variants = (Variant("base", Combination(), "base"), Variant("words", Combination([Prompt(text="a horse")])))
    recipe = Recipe.load("tiny-unet")
    result = GateResult(GateSettings(), recipe, variants, ("a", "b", "c", "d"), {}, verdicts, {}, {})
    techniques = result.recipe.techniques or ()
    assert [t["text"] if isinstance(t, dict) else t.text for t in techniques] == ([] if told is None else [told])
    header, rows = result.table()
    assert header == ["technique", "img2img (pixel)", "wins", "passes"]
    assert rows[0][0] == "words"
    assert rows[0][1].startswith("helps +50.0%" if told else "hurts -50.0%")
