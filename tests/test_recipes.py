"""Recipes: presets, validation messages, hashing, round trips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import diffeat
from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.extraction import Reading, Recipe, generation_twin, preset_names
from diffeat.tasks.registry import TASKS, options_for

MINIMAL = {"model": "sd15", "trajectory": {"timesteps": [261]}, "activations": ["up_blocks.1"]}


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_carry_their_name_and_source(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe.source
    for task in TASKS.values():
        options_for(task, recipe)  # what it says about tasks is valid


def test_the_promised_presets_exist() -> None:
    promised = "dift-sd21 dift-sd15 cleandift-sd21 gdf-sd15 gdf-sdxl gdf-sd15-legacy gdf-sdxl-legacy tiny-unet"
    assert set(promised.split()) <= set(preset_names())


@pytest.mark.parametrize("name", [n for n in preset_names() if n.startswith("ditf-")])
def test_what_is_ours_in_a_ditf_preset_says_so_beside_it(name: str) -> None:
    text = (Path(diffeat.__file__).parent / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    numbers = [line for line in text.splitlines() if line.startswith(("trajectory:", "activations:", "frame:"))]
    unsaid = [line for line in numbers if "ours" not in line and "# ours: all" not in text]
    released = name in ("ditf-flux", "ditf-flux-davis")  # the only settings that are published whole
    assert bool(unsaid) == released
    recipe = Reading.load(name)
    assert (recipe.precision == "bfloat16") == released
    assert recipe.refine.channels == ((154, 1446) if released else "detected")
    assert released or "Ours" in recipe.source


def test_presets_of_published_hyperfeatures() -> None:
    plain, paper, made = (Reading.load(f"hyperfeatures-sd15{end}") for end in ("", "-paper", "-synthetic"))
    assert (plain.frame.load, paper.frame.load, paper.frame.size) == (None, (224, 224), (512, 512))
    assert paper.replace(frame=plain.frame).hash == plain.hash
    path = made.trajectory
    assert (path.kind, path.guidance, path.steps, path.save) == ("generation", 7.5, 50, plain.trajectory.save)
    negative = path.negative_prompt.split(", ")
    assert (len(negative), negative[0], negative[-1]) == (24, "poorly drawn", "cut off")
    assert generation_twin(made).hash == made.hash
    assert {p.precision for p in (plain, paper, made)} == {"mixed float16"}


@pytest.mark.parametrize("name", preset_names())
def test_yaml_round_trip(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    recipe.save(tmp_path / "r.yaml")
    again = Recipe.load(tmp_path / "r.yaml")
    assert again == recipe
    assert again.hash == recipe.hash


def test_hash_covers_the_numbers_and_nothing_else() -> None:
    recipe = Recipe.from_dict(MINIMAL)
    told = {"name": "other", "description": "words", "source": "somewhere", "precision": "float16"}
    assert recipe.replace(**told).hash == recipe.hash
    for change in (
        {"model": "sd21"},
        {"seed": 1},
        {"prompt": "a cat"},
        {"trajectory.draws": 2},
        {"trajectory.timesteps": [260]},
        {"activations": ["up_blocks.2"]},
        {"frame.size": 256},
        {"fuse": {"kind": "concat"}},
    ):
        assert recipe.replace(**change).hash != recipe.hash, change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"trajectry": {}}, ["trajectry", "unknown field", "'trajectory'"]),
        ({"trajectory": {"timesteps": [1200]}}, ["trajectory", "1200", "0…1000"]),
        ({"trajectory": {"timesteps": [-1]}}, ["-1", "0…1000"]),
        ({"trajectory": {"timesteps": []}}, ["at least one timestep"]),
        ({"trajectory": {"timesteps": [5, 5]}}, ["repeat"]),
        ({"trajectory": {"timesteps": [5], "draws": 0}}, ["draws", "greater than or equal to 1"]),
        ({"trajectory": {"timesteps": [5], "kind": "noice"}}, ["kind", "noice"]),
        ({"trajectory": {"timesteps": [5], "drws": 2}}, ["drws", "'draws'"]),
        ({"frame": {"mode": "squish"}}, ["squish", "squash"]),
        ({"frame": {"mode": "keep", "size": 512}}, ["shorter", "size"]),
        ({"activations": []}, ["at least one activation"]),
        ({"template": "a photo"}, ["template", "{}"]),
        ({"fuse": {"kind": "concatenate"}}, ["fuse", "concatenate"]),
        ({"model": None}, ["model"]),
    ],
    ids=str,
)
def test_wrong_fields_are_named(change: dict, words: list[str]) -> None:
    with pytest.raises(InvalidValueError) as caught:
        Recipe.from_dict({**MINIMAL, **change})
    for word in words:
        assert word in str(caught.value)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(InvalidValueError, match="activations: this field is required"):
        Recipe.from_dict({k: v for k, v in MINIMAL.items() if k != "activations"})


def test_a_misspelt_preset_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="dift-sd21"):
        Recipe.load("dift-sd2.1")


@pytest.mark.parametrize("text", ["- a\n- b", "a: [1", ""], ids=["list", "broken", "empty"])
def test_files_that_are_no_recipes(text: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    with pytest.raises(InvalidValueError, match="r.yaml"):
        Recipe.load(file)


def test_prompts_go_through_the_template() -> None:
    recipe = Recipe.from_dict({**MINIMAL, "prompt": "nothing", "template": "a photo of a {}"})
    assert recipe.text_for("cat") == "a photo of a cat"
    assert recipe.text_for(None) == "nothing"
    assert recipe.text_for("") == "nothing"


def test_recipes_are_frozen() -> None:
    with pytest.raises(Exception, match="frozen"):
        Recipe.from_dict(MINIMAL).seed = 3  # pyright: ignore


def test_the_schema_describes_the_fields() -> None:
    schema = Reading.model_json_schema()
    json.dumps(schema)
    assert {"model", "frame", "trajectory", "activations", "fuse"} <= set(schema["properties"])


def test_recipes_that_are_parts_of_themselves_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("parts: [b.yaml, tiny-dift]\n")
    (tmp_path / "b.yaml").write_text("parts: [a.yaml, tiny-dift]\n")
    with pytest.raises(InvalidValueError, match="part of itself"):
        Recipe.load(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("parts: [tiny-unet, tiny-dift]\n")
    assert [part.name for part in Recipe.load(tmp_path / "a.yaml").parts] == ["b", "tiny-dift"]  # pyright: ignore
