"""diffeat select, and diffeat eval on labels, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from benchmarks.tables.selection import TASKS, JoinedSet, Repeated, SelectionRow, difference, selection_table
from diffeat.cli.main import app
from diffeat.datasets.toyworld_labels import read_toyworld_classes, read_toyworld_parts
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.evaluation.features import features_of
from diffeat.evaluation.intervals import interval_of
from diffeat.extraction import Extractor, Reading, Recipe
from diffeat.studies.selection.labels import open_labels, open_several
from diffeat.studies.selection.score import Score, ratio

MODEL = Path(__file__).parent / "golden" / "gdf" / "sd15" / "pipeline"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = {"trn": 4, "val": 2, "test": 2}
    return write_toyworld_pairs(
        tmp_path_factory.mktemp("toy") / "toy", size=64, classes=["horse", "car"], images=images, pairs=2
    )


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"name: tiny\nmodel: {MODEL}\nframe: {{mode: squash, size: 64}}\ntrajectory: {{timesteps: [50]}}\n"
        "activations: [up_blocks.2, up_blocks.3]\n"
    )
    return str(file)


def run(*arguments: object):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def said(*arguments: object) -> str:
    done = run(*arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_toyworld_has_parts_and_classes(toy: Path) -> None:
    parts = read_toyworld_parts(toy, "train")
    assert len(parts) == 8
    assert len(parts.only(["horse"])) == 4
    shown = {parts.classes[v] for s in parts.only(["horse"]) for v in np.unique(s.labels(len(parts.classes)))}
    assert {"background", "torso", "head"} <= shown
    classes = read_toyworld_classes(toy, "test")
    assert classes.classes == ("horse", "car")
    assert [s.label for s in classes] == [0, 0, 1, 1]
    with pytest.raises(UnknownNameError, match="train"):
        read_toyworld_parts(toy, "tran")


@pytest.fixture
def simple_and_complex(tmp_path: Path) -> tuple[Path, Path]:
    """Two sets in the label-scarce layout, one of few and one of more labels; the first's are of half the size."""
    roots = tmp_path / "horse", tmp_path / "bedroom"
    for root, labels, scale in zip(roots, (2, 5), (2, 1), strict=True):
        (root / "real" / "train").mkdir(parents=True)
        for k in range(6):
            blocks = np.random.default_rng((k, labels)).integers(0, labels, (4, 4)).repeat(16, 0).repeat(16, 1)
            file = root / "real" / "train" / f"{k}.png"
            Image.fromarray((blocks * 50).astype(np.uint8)).convert("RGB").save(file)
            np.save(file.with_suffix(".npy"), blocks[::scale, ::scale])
    return roots


@pytest.mark.slow
def test_select_with_labels_writes_recipe_and_report_and_goes_on(
    toy: Path, simple_and_complex: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "chosen.yaml"
    arguments = (
        "select", toy / "JPEGImages", "-m", MODEL, "--limit", 3, "--draws", 2, "--size", 64,
        "--dataset", "toyworld", "--root", toy, "--dataset", "horse21", "--root", simple_and_complex[0],
        "--category", "horse", "--samples", 4, "--budget", 16,
        "--rules", "paper", "--out", out,
    )  # fmt: skip
    assert "33 candidates" in said(*arguments)
    chosen = Recipe.load(out)
    data = json.loads((tmp_path / "chosen-selection" / "selection.json").read_text())
    assert data["steps"][-1]["channels"] <= 16
    assert [s["added"] for s in data["steps"]] == list(chosen.activations)
    scored = [a for a in data["activations"] if a["scores"]]
    assert len(scored) == sum(a["kept"] for a in data["activations"])
    assert all(a["reasons"] for a in data["activations"] if not a["kept"])
    tasks = ["correspondence", "segmentation, toyworld-parts", "classification", "segmentation, horse21"]
    assert all(list(a["scores"]) == tasks for a in scored)
    scores = {a["id"]: [a["scores"][t]["value"] for t in tasks] for a in scored}
    best, first = np.max(list(scores.values()), axis=0), data["steps"][0]
    means = {id: np.mean(values / np.maximum(best, 1e-9)) for id, values in scores.items()}
    assert first["combined"] == pytest.approx(means[first["added"]])  # all four count alike
    assert first["combined"] == pytest.approx(max(means.values()))
    properties = (tmp_path / "chosen-selection" / "properties.json").stat().st_mtime_ns
    said(*arguments, "--force")
    assert (tmp_path / "chosen-selection" / "properties.json").stat().st_mtime_ns == properties
    assert Recipe.load(out) == chosen


def test_several_sets_take_a_root_each(simple_and_complex: tuple[Path, Path], toy: Path) -> None:
    horse, bedroom = simple_and_complex
    parts = open_several(["horse21", "bedroom28"], [horse, bedroom], most=4)
    assert [(p.dataset, len(p.classes)) for p in parts] == [("horse21", 21), ("bedroom28", 29)]
    assert len(open_several(["toyworld", "horse21"], [toy, horse], ["segmentation"])) == 2
    assert len(open_several(["toyworld-parts", "toyworld-classes"], [toy])) == 2
    with pytest.raises(InvalidValueError, match="take as many roots"):
        open_several(["horse21", "bedroom28", "cat15"], [horse, bedroom])
    with pytest.raises(InvalidValueError, match="counts once"):
        open_several(["toyworld", "toyworld-parts"], [toy])


def test_a_selection_never_reads_the_test_split(toy: Path) -> None:
    for part in open_labels("toyworld", toy):
        assert part.check
        assert not any(path.name.startswith("test_") for path in part.images())
    with pytest.raises(UnknownNameError, match="segmentation"):
        open_labels("toyworld", toy, ["segmentaton"])
    with pytest.raises(InvalidValueError, match="labelled for classification"):
        open_labels("folders", toy, ["segmentation"])


def test_select_says_what_is_wrong(toy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    base = ("select", "-m", MODEL, "--budget", 4)
    assert "no pictures" in str(run(*base, tmp_path / "empty").exception)
    refused = run(*base, toy / "JPEGImages", "--task", "segmentation").exception
    assert str(refused).startswith("--task would be ignored: ")
    assert "measured, paper" in str(run(*base, toy / "JPEGImages", "--rules", "nope").exception)


def test_rules_can_be_printed() -> None:
    assert "- property: noise" in said("select", "--show-rules")


def test_eval_on_parts_and_classes(toy: Path, recipe: str, tmp_path: Path) -> None:
    printed = said(
        "eval", "toyworld-parts", "--root", toy, "--recipe", recipe, "--classifier", "linear", "--labelled", 3,
        "--category", "horse", "--out", tmp_path / "parts",
    )  # fmt: skip
    assert "3 training and 2 test pictures" in printed
    report = json.loads((tmp_path / "parts" / "report.json").read_text())
    assert 0 <= report["miou"] <= 100
    printed = said("eval", "toyworld-classes", "--root", toy, "--recipe", recipe, "--out", tmp_path / "classes")
    assert "accuracy" in printed
    assert "8 training and 4 test pictures, 2 classes" in printed
    assert (tmp_path / "classes" / "report.html").is_file()
    wrong = run("eval", "toyworld-classes", "--root", toy, "--recipe", recipe, "--splits", 3)
    assert "label maps" in str(wrong.exception)


def test_differences_of_rows_are_paired() -> None:
    rng = np.random.default_rng(0)
    hits = (rng.random(300) < 0.5).astype(float)
    better = np.maximum(hits, rng.random(300) < 0.1)
    rows = [
        SelectionRow(
            name, (("a",),), (4,), {t: Repeated((Score(np.stack([v, np.ones(300)], 1), ratio),)) for t in TASKS}
        )
        for name, v in (("legacy choice", hits), ("selected set", better))
    ]
    found = difference(rows[1], rows[0], "correspondence")
    assert found.value == pytest.approx(100 * (better - hits).mean())
    assert 0 < found.interval.low < found.value < found.interval.high
    assert found.interval.high - found.interval.low < 8  # unpaired, it would be about 16 wide
    header, body = selection_table(rows)
    assert header[2:] == list(TASKS)
    assert [row[0] for row in body[-2:]] == ["selected − legacy choice", "… of single choices"]


def test_choosing_is_in_the_interval() -> None:
    """Choices of known spread over units of known spread: the interval is that of their sum, not of units alone."""
    rng = np.random.default_rng(0)
    count, units, of_choice, of_unit = 6, 100, 3.0, 10.0
    widths, expected = [], 2 * 1.96 * np.sqrt(of_choice**2 / count + of_unit**2 / units)
    for _ in range(12):
        pictures = 50 + of_unit * rng.standard_normal(units)
        scores = (Score(np.stack([pictures + shift, np.full(units, 100.0)], 1), ratio)
                  for shift in of_choice * rng.standard_normal(count))  # fmt: skip
        repeated = Repeated(tuple(scores))
        low, high = interval_of(repeated.resampled(200))
        assert low < repeated.value < high
        widths.append((high - low) ** 2)
    assert np.sqrt(np.mean(widths)) == pytest.approx(expected, rel=0.2)  # 2.0 units alone would give 3.9 of 6.2


def test_a_set_joined_from_stored_maps_is_what_its_recipe_extracts(toy: Path, recipe: str, tmp_path: Path) -> None:
    base = Reading.load(recipe)
    several = Extractor.from_recipe(base)
    ids = ("up_blocks.3", "up_blocks.2.resnets.0")
    several = Extractor(base.replace(activations=["up_blocks.2", *ids]), several.backbone)
    images = sorted((toy / "JPEGImages").rglob("*.jpg"))[:2]
    joined = base.replace(activations=list(ids), fuse={"kind": "concat", "normalise": True})
    with features_of(several, dict.fromkeys(images)) as features:
        found = list(JoinedSet(joined, features, "").stream(images))
    for one, other in zip(found, Extractor(joined, several.backbone).stream(images), strict=True):
        torch.testing.assert_close(one.tensor, other.tensor)
        assert one.digest == other.digest
        assert one.provenance["recipe_hash"] == other.provenance["recipe_hash"]
