"""docs/fidelity.md: made from the recipes, whole, and in agreement with what the recipes say of themselves."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from diffeat.extraction import Joined, Reading, preset_names
from diffeat.extraction.reading import Fuse, Refine, Trajectory, ViewSpec

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def fidelity() -> Any:
    spec = importlib.util.spec_from_file_location("fidelity", DOCS / "fidelity.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fidelity"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_script_makes(fidelity: Any) -> None:
    assert (DOCS / "fidelity.md").read_text(encoding="utf-8") == fidelity.page(), "run: python docs/fidelity.py"


def test_every_preset_stands_in_one_group_with_every_number(fidelity: Any) -> None:
    groups = [name for s in fidelity.published()["systems"] for g in s["groups"] for name in g["presets"]]
    files = [name for name in preset_names() if fidelity.parts_of(name)[1] == ""]
    assert sorted(groups) == files
    titles = [
        g["title"] for s in fidelity.published()["systems"] for g in (*s["groups"], *s.get("datasets", {}).values())
    ]
    assert len(set(titles)) == len(titles), "links go by titles"
    page = (DOCS / "fidelity.md").read_text(encoding="utf-8")
    for name in preset_names():
        assert list(fidelity.facts(name)) == list(fidelity.NUMBERS)
        assert page.count(f"`{name}`") >= 2, "in the summary, and in its group"


@pytest.mark.parametrize(
    ("part", "fields"),
    [
        (Reading, "model precision denoiser frame prompt template conditioning trajectory activations techniques views "
         "refine shrink low_pass fuse seed tasks"),
        (Joined, "precision prompt template parts join weights network tasks"),
        (Trajectory, "timesteps draws latent steps save guidance negative_prompt prediction"),
        (Refine, "discard channels ratio"),
        (Fuse, "grid resize normalise weights"),
        (ViewSpec, "model denoiser techniques prompt timesteps seed activations append"),
    ],
)  # fmt: skip
def test_every_field_of_a_recipe_is_a_number_of_the_page(part: type[BaseModel], fields: str) -> None:
    """A new field fails here until docs/fidelity.py tells it."""
    assert set(part.model_fields) - {"kind", "name", "description", "source"} == set(fields.split())


@pytest.mark.parametrize("preset", preset_names())
def test_what_differs_says_why_and_what_is_published_says_where(fidelity: Any, preset: str) -> None:
    for number, fact in fidelity.facts(preset).items():
        assert fact.equal or fact.why, f"{number}: {fact.original!r} there, {fact.ours!r} here; say why"
        assert fact.original is None or fact.source, f"{number}: where is {fact.original!r} published?"


@pytest.mark.parametrize("preset", preset_names())
def test_what_is_not_the_originals_is_marked_in_the_recipe_and_nothing_else(fidelity: Any, preset: str) -> None:
    invented = fidelity.invented(preset)
    assert fidelity.marked(preset) == invented, "name them in the recipe's file: # ours: number, number"


def test_sources_are_known_and_used(fidelity: Any) -> None:
    text = (DOCS / "fidelity.yaml").read_text(encoding="utf-8")
    used = {part.split()[0] for line in re.findall(r"\bfrom: ([^,}\n]+)", text) for part in line.split(";")}
    assert used == set(fidelity.published()["sources"])


@pytest.mark.parametrize(
    ("number", "changes"),
    [
        ("model", {"model": "sd15"}),
        ("model", {"denoiser": {"source": "weights.safetensors"}}),
        ("precision", {"precision": "float16"}),
        ("timestep", {"trajectory.timesteps": [200]}),
        ("timestep", {"trajectory.kind": "clean"}),
        ("draws", {"trajectory.draws": 4}),
        ("latent", {"trajectory.latent": "mean"}),
        ("size", {"frame.size": 512}),
        ("size", {"frame.mode": "pad"}),
        ("filter", {"frame.filter": "bilinear"}),
        ("prompt", {"prompt": "a photo"}),
        ("prompt", {"template": "an image of a {}"}),
        ("activations", {"activations": ["up_blocks.2"]}),
        ("refine", {"refine": {"discard": "post"}}),
        ("fuse", {"fuse": {"normalise": True}}),
        ("grid", {"fuse": {"grid": [64, 64]}}),
        ("scales", {"shrink": 2}),
        ("scales", {"conditioning": {"guidance_scale": 2.0}}),
        ("scales", {"techniques": [{"kind": "lora", "path": "a.safetensors", "scale": 0.5}]}),
        ("views", {"techniques": [{"kind": "lora", "path": "a.safetensors"}]}),
        ("views", {"views": [{"seed": 1}, {"prompt": "a photo"}], "fuse": {"kind": "mean"}}),
    ],
    ids=str,
)
def test_a_changed_number_is_seen(fidelity: Any, number: str, changes: dict[str, Any]) -> None:
    recipe = Reading.load("dift-sd21")
    before, after = fidelity.ours(recipe), fidelity.ours(recipe.replace(**changes))
    assert before[number] != after[number]


def test_a_changed_join_is_seen(fidelity: Any) -> None:
    before = fidelity.ours(Joined.load("gdf-xl-t"))
    after = fidelity.ours(Joined.load("gdf-xl-t").replace(join="weighted", weights=(1, 1, 2)))
    assert {number for number in before if before[number] != after[number]} == {"fuse", "scales"}
    assert after["scales"] == "0.25 : 0.25 : 0.5"


def test_a_fact_is_equal_published_or_ours(fidelity: Any) -> None:
    assert fidelity._fact({"is": 8, "from": "dift README.md"}, "8").state == "equal"
    assert fidelity._fact({"is": 8, "from": "dift README.md"}, "4").state == "differs"
    assert fidelity._fact({"why": "chosen"}, "4").state == "ours"
    assert fidelity._fact(None, "none").absent
    assert fidelity._fact({"is": "stabilityai/stable-diffusion-2-1"}, "sd21").state == "equal"
    assert fidelity._fact({"is": "stabilityai/stable-diffusion-2-1"}, "sd21-base").state == "differs"
    assert fidelity._fact({"is": "stabilityai/stable-diffusion-2-1"}, "sd21, weights a.pt").state == "differs"


def test_nothing_of_the_machine_is_on_the_page(fidelity: Any) -> None:
    assert str(DOCS.parent) not in fidelity.page()


def test_tables_are_whole(fidelity: Any) -> None:
    rows = [line for line in fidelity.page().splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", line)) for line in rows} == {4, 6}  # two or four columns
