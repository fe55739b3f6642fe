"""Runs, recipes and exported features on a hub: pushed as they are taken, with a card written from them."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

import diffeat
from diffeat.cli.main import app
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction import Reading, Recipe
from diffeat.extraction.contained import contained, left, located, portable
from diffeat.interfaces.hub import push_to_hub, pushed_files
from diffeat.storage import export
from diffeat.tasks.predictors.folder import (
    PredictorFacts,
    base_models,
    find_run,
    licences,
    read_run,
    write_run,
)
from diffeat.training.hyperfeatures.recipes import network_of
from support.hub import Hub, hub  # noqa: F401
from support.stores import FakeSource

WEIGHTS = b"trained" * 100
_PRESETS = Path(diffeat.__file__).parent / "recipes"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """As a training leaves it: a recipe, and weights beside it."""
    (tmp_path / "run" / "weights").mkdir(parents=True)
    (tmp_path / "run" / "weights" / "a.safetensors").write_bytes(WEIGHTS)
    (tmp_path / "run" / "recipe.yaml").write_text(
        "name: mine\ndescription: all layers\nmodel: sd15\nframe: {mode: squash, size: 64}\n"
        "trajectory: {kind: inversion, steps: 3}\nactivations: [up_blocks.1]\n"
        "fuse: {kind: hyperfeatures, weights: {source: weights/a.safetensors}}\n"
    )
    return tmp_path / "run"


def test_a_recipe_goes_out_with_its_trained_part_and_comes_back(
    hub: Hub,  # noqa: F811
    trained: Path,
    tmp_path: Path,
    monkeypatch,
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.md").write_text("# SPair-71k\n\nPCK@0.1 59.6 [58.0, 61.2], protocol dift\n")
    (trained / "training.md").write_text("# Hyperfeatures, trained\n\n- 40 pairs of spair trn, 5 steps\n")
    url = push_to_hub(trained, "someone/mine", report=tmp_path / "out")
    assert url == f"{hub.url}/someone/mine"
    files = hub.repositories["someone/mine"]
    name = f"weights/{hashlib.sha256(WEIGHTS).hexdigest()[:12]}.safetensors"
    assert set(files) == {"recipe.yaml", "README.md", name}
    card = files["README.md"].decode()
    assert "base_model:\n- stable-diffusion-v1-5/stable-diffusion-v1-5" in card
    assert "sd15: creativeml-openrail-m" in card
    assert "PCK@0.1 59.6 [58.0, 61.2], protocol dift" in card
    assert "40 pairs of spair trn, 5 steps" in card
    assert "kind: hyperfeatures" in card
    assert 'load_source("hub:someone/mine")' in card
    assert str(tmp_path) not in "".join(content.decode() for content in files.values())
    here = Recipe.load(trained / "recipe.yaml")
    for _ in range(2):
        there = Recipe.load("hub:someone/mine")
        assert there.hash == here.hash
        assert Path(there.fuse.weights.source).read_bytes() == WEIGHTS  # pyright: ignore
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # and again from the cache
    with pytest.raises(ModelError, match=r"'someone/else' cannot be fetched.*local file"):
        Recipe.load("hub:someone/else")


def test_a_head_goes_out_and_comes_back(hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    facts = PredictorFacts(kind="linear", target="labels", classes=("sky", "cat"), notes=("mIoU 50.0 [40.0, 60.0]",))
    state = {"weight": torch.eye(2), "bias": torch.zeros(2)}
    write_run(tmp_path / "head", Recipe.load("baseline:rgb"), facts, state)
    push_to_hub(tmp_path / "head", "someone/head")
    card = hub.repositories["someone/head"]["README.md"].decode()
    assert "mIoU 50.0 [40.0, 60.0]" in card
    assert 'Predictor.load("someone/head")' in card
    run = read_run(find_run("someone/head"))
    assert torch.equal(run.state["weight"], state["weight"])
    assert run.facts.classes == ("sky", "cat")
    (tmp_path / "head" / "predictor.safetensors").write_bytes(b"damaged")
    with pytest.raises(InvalidValueError, match="is not the head"):
        push_to_hub(tmp_path / "head", "someone/head")


def test_features_go_out_as_a_data_set(hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    source = FakeSource()
    features = source.extract(torch.rand(2, 3, 8, 8))
    with source.store(tmp_path / "store") as store:
        store.write_shard(features)
    export(tmp_path / "store", tmp_path / "table", "parquet")
    push_to_hub(tmp_path / "table", "someone/features")
    files = hub.repositories["datasets/someone/features"]
    assert "data_files: '*.parquet'" in files["README.md"].decode()
    assert "2 pictures" in files["README.md"].decode()
    assert 'load_dataset("someone/features"' in files["README.md"].decode()
    row = pq.read_table(io.BytesIO(files["000000.parquet"])).to_pylist()[0]
    values = torch.from_numpy(np.load(io.BytesIO(row["a"])))
    torch.testing.assert_close(values.float(), features[0]["a"], rtol=1e-3, atol=1e-3)


def test_what_would_not_run_elsewhere_is_refused(trained: Path, tmp_path: Path) -> None:
    text = (trained / "recipe.yaml").read_text()
    (trained / "recipe.yaml").write_text(text.replace("model: sd15", f"model: {tmp_path}"))
    with pytest.raises(InvalidValueError, match="a file of this machine"):
        pushed_files(trained)
    with pytest.raises(InvalidValueError, match="nothing can be pushed"):
        pushed_files(tmp_path)


def test_base_models_are_never_copied_whatever_they_are_called(tmp_path: Path, monkeypatch) -> None:
    """Nor are parts of pipelines; fine-tuned parts travel."""
    monkeypatch.chdir(tmp_path)
    names = ("model.diffusion_model.x", "first_stage_model.x")
    save_file({name: torch.zeros(1) for name in names}, "base.safetensors")
    save_file({"x": torch.ones(1)}, "style.safetensors")
    (tmp_path / "tiny-unet").mkdir()  # named like a model, and none
    (tmp_path / "pipeline" / "unet").mkdir(parents=True)
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    save_file({"x": torch.zeros(1)}, "pipeline/unet/diffusion_pytorch_model.safetensors")
    recipe = Reading.load("tiny-unet")

    def placed(**fields: object) -> tuple[Reading, list[str], list[str]]:
        inside, copies = contained(recipe.replace(**fields))
        return inside, sorted(copies), left(inside)

    here = str(tmp_path)
    for model, expected in (
        ("base.safetensors", f"{here}/base.safetensors"),
        ("base.safetensors,base=sd15", f"{here}/base.safetensors,base=sd15"),
        ("base.safetensors,base=./pipeline", f"{here}/base.safetensors,base={here}/pipeline"),
        ("pipeline,variant=fp16", f"{here}/pipeline,variant=fp16"),
        ("tiny-unet", "tiny-unet"),
        ("sd15,variant=fp16", "sd15,variant=fp16"),
    ):
        inside, copies, rest = placed(model=model)
        assert (inside.model, copies, bool(rest)) == (expected, [], here in expected)
        assert located(inside, tmp_path).model == expected
        assert portable(inside).model == expected.replace(f"{here}/", "")
    (tmp_path / "base.safetensors").rename(tmp_path / "moved.safetensors")
    with pytest.raises(InvalidValueError, match="base.safetensors', which is not there"):
        located(recipe.replace(model=f"{here}/base.safetensors,base=sd15"), tmp_path)
    for field, value, travels in (
        ("denoiser", {"source": "moved.safetensors"}, False),
        ("denoiser", {"source": "pipeline", "file": "unet/diffusion_pytorch_model.safetensors"}, False),
        ("denoiser", {"source": "style.safetensors"}, True),
        ("techniques", [{"kind": "lora", "path": here, "file": "style.safetensors"}], True),
        ("techniques", [{"kind": "ip-adapter", "path": ".", "subfolder": "", "file": "style.safetensors"}], False),
        ("techniques", [{"kind": "controlnet", "model": "./pipeline/unet", "condition": "depth:./pipeline"}], False),
        ("techniques", [{"kind": "prompt", "caption_model": "./pipeline"}], False),
        ("techniques", [{"kind": "prompt", "captions": "style.safetensors"}], False),
    ):
        inside, copies, rest = placed(**{field: value})
        assert ([name.startswith("weights/") for name in copies], not rest) == ([True] * travels, travels), value
        assert Reading.from_yaml(inside.to_yaml()).hash == inside.hash
        assert "'.'" not in str(rest)
        assert all(Path(place).exists() for place in rest)


def test_a_trained_join_travels_with_its_description(hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    write = pushed_files(_PRESETS / "hyperfeatures-tiny.yaml")[1]
    assert sorted(Path(name).name for name in write if name.startswith("weights/")) == [
        "config.json",
        "model.safetensors",
    ]
    push_to_hub(_PRESETS / "hyperfeatures-tiny.yaml", "someone/trained")
    there = Recipe.load("hub:someone/trained")
    own = Recipe.load("hyperfeatures-tiny")
    assert isinstance(there, Reading)
    assert isinstance(own, Reading)
    assert there.hash == own.hash
    for one, other in zip(*(network_of(r).state_dict().values() for r in (there, own)), strict=True):
        assert torch.equal(one, other)


def test_a_head_goes_out_with_the_weights_it_names_and_no_others(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "style.safetensors")
    recipe = Reading.load("tiny-unet").replace(
        techniques=[{"kind": "lora", "path": str(tmp_path / "style.safetensors")}]
    )
    facts = PredictorFacts(kind="linear", target="labels", classes=("sky", "cat"))
    run = write_run(tmp_path / "run", recipe, facts, {"weight": torch.eye(2), "bias": torch.zeros(2)})
    (run / "weights" / ".half.safetensors.part").write_bytes(b"half")
    (run / "weights" / "earlier.safetensors").write_bytes(b"of another training")
    files = pushed_files(run)[1]
    named = hashlib.sha256((tmp_path / "style.safetensors").read_bytes()).hexdigest()[:12]
    assert [name for name in files if name.startswith("weights/")] == [f"weights/{named}.safetensors"]
    assert files["recipe.yaml"] == (run / "recipe.yaml").read_bytes()


def test_cards_name_hub_ids_of_models_however_they_are_written(tmp_path: Path) -> None:
    reading = Reading.load("tiny-unet")
    sd15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    for model, ids in (("sd15,variant=fp16", [sd15]), ("a/b,revision=ab", ["a/b"]), ("tiny-unet", []),
                       ("/gone", []), (str(tmp_path), [])):  # fmt: skip
        assert base_models(reading.replace(model=model)) == ids
    assert list(licences(reading.replace(model="sd15,variant=fp16"))) == ["sd15: creativeml-openrail-m"]
    with pytest.raises(InvalidValueError, match="has no revisions: leave it out"):
        find_run(tmp_path, revision="ab")


def test_the_command_shows_what_it_would_push(trained: Path) -> None:
    done = CliRunner().invoke(app, ["push", str(trained), "someone/mine", "--plan"])
    assert done.exit_code == 0, done.output
    assert "model: recipe.yaml" in done.output
    assert "# mine" in done.output


def test_a_hub_that_refuses_is_one_line_and_one_that_is_away_asks_for_no_token(trained: Path, monkeypatch) -> None:
    for away, todo in ((True, "Try again where"), (False, r"Log in .*hf auth login")):
        monkeypatch.setattr("diffeat.interfaces.hub.offline", lambda away=away: away)
        with pytest.raises(ModelError, match=rf"cannot be written \(.*\)\. {todo}"):
            push_to_hub(trained, "someone/mine")
