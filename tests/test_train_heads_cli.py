"""``diffeat train segmentation``, ``depth`` and ``normals`` from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from diffeat.backbones import Backbone
from diffeat.cli.main import app
from diffeat.cli.train_heads import HEADS
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.errors import DiffeatError
from diffeat.extraction import Recipe
from diffeat.tasks.dense import DenseOptions
from diffeat.tasks.predictors.predictor import Predictor
from diffeat.training.heads.truth import TRUTHS

QUICK = ["-r", "baseline:rgb", "--steps", "4", "--batch", "2", "--every", "2", "--variants", "1", "--limit", "4",
         "--validation-limit", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_toyworld_pairs(folder, size=64, classes=["dog", "car"], images={"trn": 4, "val": 3, "test": 3}, pairs=2)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_run_folder_and_its_report(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = run("train", "segmentation", "toyworld-parts", "--root", toy, "--out", out, *QUICK)
    assert done.exit_code == 0, done.exception
    assert "level 0: stride 4" in done.output
    assert "mIoU" in done.output
    page = (out / "training" / "report.html").read_text()
    assert page.count("data:image/jpeg") == 2
    facts = json.loads((out / "training" / "report.json").read_text())
    assert (facts["quoted"], len(facts["losses"])) == ("mIoU", 4)
    assert 0 <= facts["waited"] <= 1
    assert "waiting for data" in page
    (prediction,) = Predictor.load(out).predict(next((toy / "JPEGImages" / "dog").glob("test_*.jpg")))
    assert prediction.values.shape == (64, 64)
    again = run("train", "segmentation", "toyworld-parts", "--root", toy, "--out", out, *QUICK)
    assert isinstance(again.exception, DiffeatError)
    assert "--force" in str(again.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segmentation", "spair"], "holds pairs, not label maps"),
        (["depth", "toyworld-parts"], "holds label maps, not depth"),
        (["segmentation", "toyworld-parts", "--head", "unet"], "head"),
        (["segmentation", "toyworld-parts", "--jitter", "2", "--jitter", "1"], "smaller first"),
        (["segmentation", "toyworld-parts", "--split", "training"], "no split"),
    ],
)
def test_wrong_orders_are_one_line_before_a_model_is_loaded(
    arguments: list[str], message: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Backbone, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    done = run("train", *arguments, "--root", toy, "--out", tmp_path / "run")
    assert isinstance(done.exception, DiffeatError), done.output
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


def test_every_kind_that_is_learned_has_its_command() -> None:
    assert set(HEADS) == set(TRUTHS)


@pytest.mark.parametrize("name", ["gdf-sd15-ade20k", "gdf-sdxl-cityscapes", "gdf-xl-t-segmentation-ade20k",
                                  "gate-sd15-ade20k-paper", "gate-sd15-cityscapes-released"])  # fmt: skip
def test_presets_of_papers_hold_their_head_and_its_training(name: str) -> None:
    options = DenseOptions(**Recipe.load(name).tasks["dense"])
    assert (options.head, options.steps, options.batch, options.rate) == ("upernet", 80_000, 2, 1.6e-4)
    assert options.share(0) == 1
    assert options.share(79_999) * options.rate == pytest.approx(1e-4, rel=1e-3)
    assert (options.stride, options.blend) == (1 if "ade20k" in name else 0.5, "mean")  # as their sliding tests
    assert (options.crop, options.jitter) == (("square", (0.5, 2)) if "ade20k" in name else (1024, (1, 1)))


@pytest.mark.slow
def test_two_processes_learn_as_one_that_accumulates_two_batches(toy: Path, tmp_path: Path) -> None:
    """All weights, that is; of batch norm's running statistics the first process's are kept."""
    out, one = tmp_path / "run", tmp_path / "one"
    command = ["train", "segmentation", "toyworld-parts", "--root", str(toy), "--out", str(out), *QUICK]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "diffeat"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*launch, *command], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    facts = json.loads((out / "training" / "report.json").read_text())
    assert len(facts["losses"]) == 4
    Predictor.load(out)
    assert len(list((out / "training").glob("*-1"))) == 1  # the second process's features
    assert run(*command[: -len(QUICK) - 1], one, *QUICK, "--accumulate", 2).exit_code == 0
    states = [load_file(folder / "training" / "state.safetensors") for folder in (out, one)]
    weights = [
        name
        for name in states[0]
        if name.startswith("network/") and "running" not in name and states[0][name].is_floating_point()
    ]
    assert weights
    for name in weights:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=0, atol=1e-5)
    torch.testing.assert_close(states[0]["losses"], states[1]["losses"], rtol=1e-5, atol=1e-5)
