"""What holds for every technique there is; forgetting to register one fails here."""

# ruff: noqa: F811 (arguments are named like the fixtures that are imported)
from __future__ import annotations

import importlib
import math
import pkgutil
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from typer.testing import CliRunner

import diffeat.techniques
from diffeat import Extractor, Recipe
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.techniques import TECHNIQUES, Combination, DenoiseFrom, Technique
from diffeat.techniques.named import code_allowed
from diffeat.techniques.parse import AnyTechnique, parse_combination
from diffeat.techniques.weights import fingerprint_with
from support.techniques import all_of, backbone, files, fingerprint, picture, recipe  # noqa: F401 (fixtures)

UNION: TypeAdapter[Technique] = TypeAdapter(AnyTechnique)
every = pytest.mark.parametrize("kind", TECHNIQUES, ids=lambda kind: kind.__name__)


def sample(kind: type[Technique], folder: Path) -> Technique:
    (found,) = [t for t in all_of(folder) if isinstance(t, kind)]
    return found


def test_every_class_is_registered_once_under_its_own_words() -> None:
    for module in pkgutil.iter_modules(diffeat.techniques.__path__):
        importlib.import_module(f"diffeat.techniques.{module.name}")
    classes = [c for c in Technique.__subclasses__() if c.__module__.startswith("diffeat.")]
    assert sorted(c.__name__ for c in classes) == sorted(c.__name__ for c in TECHNIQUES)
    words = [word for kind in TECHNIQUES for word in kind.words]
    assert len(words) == len(set(words))


def test_help_loads_none_of_the_heavy_libraries() -> None:
    code = "import sys, diffeat.techniques.parse; print([m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@every
def test_it_has_text_forms_that_parse_and_that_the_command_names(kind: type[Technique]) -> None:
    from diffeat.cli.main import app

    shown = CliRunner().invoke(app, ["gate", "--help"], env={"COLUMNS": "500"}).output
    assert sorted(form.partition(":")[0] for form in kind.usage) == sorted(kind.words)
    for form in kind.usage:
        assert form in shown
        (technique,) = parse_combination(form.replace("MODULE:FUNCTION", "os.path:basename"), allow_code=True)
        assert type(technique) is kind
        with code_allowed():
            assert UNION.validate_json(technique.model_dump_json()) == technique


@every
def test_it_goes_through_a_recipe_and_a_file(kind: type[Technique], files: Any, tmp_path: Path) -> None:
    technique = sample(kind, files)
    held = recipe(technique, *company(technique))
    held.save(tmp_path / "recipe.yaml")
    loaded = Recipe.load(tmp_path / "recipe.yaml")
    assert loaded == held
    assert loaded.techniques is not None
    assert loaded.techniques[0] == technique
    assert loaded.hash == held.hash != recipe(*company(technique)).hash


@every
def test_it_acts_and_is_undone_and_its_null_twin_is_the_base(
    kind: type[Technique], backbone: Backbone, files: Any
) -> None:
    technique = sample(kind, files)
    beside = company(technique)
    base, before = features(backbone, *beside), fingerprint(backbone.pipeline)
    assert not torch.allclose(features(backbone, technique, *beside), base)
    assert torch.equal(features(backbone, technique.null(), *beside), base)
    assert fingerprint(backbone.pipeline) == before
    assert isinstance(technique.null(), Technique)
    assert technique.null().null() == technique.null() != technique


@every
def test_weights_that_it_names_are_in_the_fingerprint(kind: type[Technique], files: Any, tmp_path: Path) -> None:
    technique = sample(kind, shutil.copytree(files, tmp_path / "files"))
    assert bool(technique.files()) == bool({"path", "model", "file"} & set(kind.model_fields))
    assert (fingerprint_with("base", [technique]) == "base") == (not technique.files())
    for name in technique.files():
        before = fingerprint_with("base", [technique])
        file = next(f for f in (Path(name), *sorted(Path(name).rglob("*.safetensors"))) if f.is_file())
        file.write_bytes(file.read_bytes() + b" ")
        assert fingerprint_with("base", [technique]) != before


@every
def test_it_says_how_often_it_can_be_there(kind: type[Technique], files: Any) -> None:
    technique = sample(kind, files)
    if kind.once:
        with pytest.raises(InvalidValueError, match=f"2 techniques of the kind {kind.__name__} .* there can be one"):
            Combination([technique, technique])
    else:
        assert len(Combination([technique, technique])) == 2


@pytest.mark.parametrize("kind", [t for t in TECHNIQUES if "scale" in t.model_fields], ids=lambda kind: kind.__name__)
def test_scales_are_those_of_the_stock_pipelines(kind: type[Technique], files: Any) -> None:
    technique = sample(kind, files)
    for scale in (-0.75, 0.0, 2.5, 40.0):
        assert UNION.validate_python({**technique.model_dump(), "scale": scale}).model_dump()["scale"] == scale
    for scale in (math.nan, math.inf, -math.inf):
        with pytest.raises(InvalidValueError, match=rf"^{kind.__name__} is not valid: scale: .* finite number .*$"):
            kind(**{**technique.model_dump(), "scale": scale})


def company(technique: Technique) -> list[Technique]:
    """Guidance does nothing without steps."""
    return [DenoiseFrom(start=260, steps=2)] if technique.guides else []


def features(backbone: Backbone, *techniques: Any) -> torch.Tensor:
    found = Extractor(recipe(*techniques), backbone).extract([picture(0)])
    return torch.cat([m.flatten() for m in found[0].activations.values()])
