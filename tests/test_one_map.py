"""A recipe that a task cannot use is refused before a model is loaded, or before a picture is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from diffeat.backbones import Backbone
from diffeat.cli.main import app
from diffeat.datasets.pairs import PairDataset, PointPair
from diffeat.errors import DiffeatError, InvalidValueError
from diffeat.extraction import Extractor, Joined, Reading, Recipe, load_source
from diffeat.tasks.correspondence import get_protocol
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.registry import TASKS
from tiny.pipelines import build

FIELDS: dict[str, Any] = {
    "model": "nowhere/at-all", "frame": {"mode": "squash", "size": 64}, "trajectory": {"timesteps": [50]},
    "activations": ["up_blocks.1"],
}  # fmt: skip
SEVERAL = {
    "activations": {"activations": ["up_blocks.1", "up_blocks.2"]},
    "timesteps": {"trajectory": {"timesteps": [50, 100]}},
    "walk": {"trajectory": {"kind": "inversion", "steps": 10, "save": [3, 4]}},
    "whole walk": {"trajectory": {"kind": "generation", "steps": 4}},
}
#: Maps that only the model can count.
GLOBS = {"glob": {"activations": ["up_blocks.*.resnets.0"]}, "alias glob": {"activations": ["gdf:up-level1-*-res-out"]}}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.from_pipeline(build("sd15"))


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{name}.png" for name in "ab"]
    for path in paths:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    return paths


def reading(**changes: Any) -> Reading:
    return Reading.from_dict(FIELDS | changes)


@pytest.mark.parametrize("door", ["match", "eval", "propagate"])
@pytest.mark.parametrize("changes", SEVERAL.values(), ids=SEVERAL)
def test_several_maps_are_refused_before_the_model_is_loaded(
    door: str, changes: Any, pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    reading(**changes).save(tmp_path / "r.yaml")
    (tmp_path / "pairs.csv").write_text("source,target,source_x,source_y,target_x,target_y\na.png,b.png,1,1,2,2\n")
    arguments = {
        "match": ["match", *pictures],
        "eval": ["eval", "csv", "--root", tmp_path / "pairs.csv"],
        "propagate": ["propagate", "--out", tmp_path / "out"],
    }[door]
    done = CliRunner().invoke(app, [*map(str, arguments), "-r", str(tmp_path / "r.yaml")])
    assert isinstance(done.exception, InvalidValueError)
    assert "fuse.kind=concat" in str(done.exception)
    assert "\n" not in str(done.exception)
    assert not (tmp_path / "out" / "toyworld").exists()


def test_a_sweep_refuses_what_it_cannot_sweep_before_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    views = {"views": [{"seed": 0}, {"seed": 1}], "fuse": {"kind": "mean"}}
    for number, changes in enumerate((SEVERAL["walk"], views)):
        reading(**changes).save(tmp_path / f"{number}.yaml")
        arguments = ["sweep", "-r", str(tmp_path / f"{number}.yaml"), "-t", "20", "-b", "up_blocks.1"]
        done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "sweep")])
        assert isinstance(done.exception, InvalidValueError)
        assert not (tmp_path / "sweep" / "toyworld").exists()


@pytest.mark.parametrize("changes", [*SEVERAL.values(), *GLOBS.values()], ids=[*SEVERAL, *GLOBS])
def test_several_maps_are_refused_before_a_picture_is_read(
    changes: Any, backbone: Backbone, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = Extractor(reading(**changes), backbone)
    assert len(extractor.map_names) > 1
    monkeypatch.setattr(Extractor, "read", lambda *_: pytest.fail("a picture was read"))
    pair = PointPair("one", *pictures, ((1.0, 1.0),), ((2.0, 2.0),))
    data = PairDataset("pairs", "", pictures[0].parent, (pair,))
    with pytest.raises(InvalidValueError, match=f"{len(extractor.map_names)} maps"):
        evaluate(data, extractor, get_protocol("pf-pascal"))
    with pytest.raises(InvalidValueError, match="maps of a picture"):
        TASKS["propagation"].evaluate(None, extractor)
    joined = Extractor(extractor.recipe.replace(fuse={"kind": "concat"}), backbone)
    assert joined.map_names == ()


def test_maps_are_called_as_results_call_them(backbone: Backbone, pictures: list[Path]) -> None:
    for changes in (SEVERAL["timesteps"], SEVERAL["walk"], GLOBS["glob"]):
        extractor = Extractor(reading(**changes), backbone)
        assert list(extractor.extract(pictures[0])[0].activations) == list(extractor.map_names)


def test_sources_of_one_map_are_taken() -> None:
    assert load_source("baseline:rgb").map_names == ()
    assert load_source("baseline:rgb + baseline:rgb").map_names == ()


def test_a_mean_of_other_channels_is_refused_with_the_model(backbone: Backbone) -> None:
    with pytest.raises(InvalidValueError, match="same channels"):
        Extractor(reading(activations=["up_blocks.1", "up_blocks.3"], fuse={"kind": "mean"}), backbone)


def test_a_padding_part_is_refused_by_the_recipe() -> None:
    padded = reading(frame={"mode": "pad", "size": 64})
    with pytest.raises(InvalidValueError, match="pads pictures"):
        Joined.from_dict({"parts": [reading(), padded]})
    assert Joined.from_dict({"parts": [reading(), padded], "join": "weighted"}).join == "weighted"


def test_trained_weights_are_looked_for_before_any_model_is_loaded(tmp_path: Path, monkeypatch: Any) -> None:
    def loaded(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("diffeat.extraction.extractor.load_backbone", loaded)
    tiny = Recipe.load("tiny-dift")
    gone = {"source": str(tmp_path / "gone.safetensors")}
    wrong: list[dict[str, Any]] = [
        {"fuse": {"kind": "hyperfeatures", "weights": gone}},
        {"fuse": {"kind": "hyperfeatures"}},
        {"fuse": {"kind": "amalgamation", "weights": gone}, "views": [{}, {"seed": 1}]},
        {"denoiser": gone},
    ]
    for fields in wrong:
        part = tiny.replace(**fields)
        for recipe in (part, Joined.from_dict({"name": "both", "parts": [tiny, part]})):
            with pytest.raises(DiffeatError, match="are not there|names no trained weights"):
                load_source(recipe)
    with pytest.raises(DiffeatError, match="are not there"):
        load_source(Joined.from_dict({"name": "one", "parts": [tiny], "join": "convolution", "network": gone}))
