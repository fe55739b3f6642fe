"""Tables of papers: what they hold is whole, and the machinery runs on toy data with an embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.datasets import get_card, open_dataset, write_toyworld_pairs
from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.extraction import Reading, Recipe, load_source
from diffeat.reproduce import load_table, maps_of, plan_rows, run_rows, table_names
from diffeat.reproduce.run import count_pictures, recipe_of
from diffeat.tasks import evaluate_pairs, options_for, task_of


@pytest.mark.parametrize("name", table_names())
def test_every_table_is_whole(name: str) -> None:
    """Recipes and options of every row are ones that there are; a plan is made without data or models."""
    table = load_table(name)
    task = task_of(get_card(table.dataset).kind)
    for row in table.rows:
        recipe = Recipe.load(row.reads) if row.train else recipe_of(row, {})
        assert row.train or not task.one_map or len(recipe.map_names) < 2, row.name
        options_for(task, recipe, **row.options)
        assert row.number is None or row.number > 1  # percent
    plans = plan_rows(table, table.rows)
    assert [plan.row for plan in plans] == [row.name for row in table.rows]
    if name != "toyworld":  # calls, hours and disk of every row, before the dataset is here
        assert all(plan.bytes is not None and plan.hours(1) is not None for plan in plans)
        assert sum(plan.calls * (plan.pictures or 0) for plan in plans) > 0


def test_the_issue_s_tables_are_there() -> None:
    wanted = "spair spair-u ap10k cub pf-pascal hpatches davis ade20k cityscapes horse21 cifar10 toyworld"
    assert set(table_names()) == set(wanted.split())


def test_a_plan_counts_calls_hours_and_bytes() -> None:
    table = load_table("spair")
    first, second, *_ = plan_rows(table, table.like(("DIFT sd2.1*",)), pictures=100)
    assert (first.pictures, first.calls, first.bytes) == (100, 8, 100 * 1280 * 48 * 48 * 2)
    assert (second.pictures, second.bytes) == (0, 0)  # the same features
    assert first.hours(0.9) == pytest.approx(0.2)
    assert first.hours(None) is None
    trained, gate, *_ = plan_rows(table, table.like(("GDF v1.5, box", "GATE*")))
    assert trained.calls == 1  # of the recipe that the training starts from
    assert gate.calls == 4 + 3 * (9 + 1) * 1.4  # three views denoise in nine steps first, with a ControlNet beside
    own = plan_rows(table, table.like(("DIFT sd2.1, box, per image",)), own={"DIFT sd2.1, box, per image": "tiny-dift"})
    assert own[0].bytes is None  # of maps that are not known


def test_maps_are_those_that_are_stored() -> None:
    maps = load_source("tiny-unet").extract(torch.rand(1, 3, 256, 256))[0]
    assert maps_of("tiny-unet") == [tuple(maps[name].shape) for name in Reading.load("tiny-unet").activations]
    for recipe, channels in (("gdf-sd15", 3520), ("gdf-sdxl", 3840), ("gdf-xl-t", 8154)):  # as the paper counts them
        assert [shape[0] for shape in maps_of(f"{recipe}-horse21") or ()] == [channels]
    assert maps_of("mine.yaml") is None


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The toy world, and a small recipe of the embedded model."""
    folder = tmp_path_factory.mktemp("toy")
    root = write_toyworld_pairs(folder / "toy", size=64, classes=["dog", "car"], images={"test": 4}, pairs=3)
    recipe = Reading.load("tiny-dift").replace(frame={"mode": "squash", "size": 64}, **{"trajectory.draws": 1})
    (folder / "small.yaml").write_text(recipe.to_yaml())
    return root, folder / "small.yaml"


def test_rows_run_once_and_stand_beside_the_paper(toy, tmp_path: Path, monkeypatch) -> None:
    root, small = toy
    single = "tiny-unet, up_blocks.1"
    words = ["reproduce", "toyworld", "--rows", "RGB*", "--rows", "*blocks.1", "--with", f"{single}={small}",
             "--root", str(root), "--out", str(tmp_path / "out")]  # fmt: skip
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert list(rows) == ["RGB patches", single]
    data = open_dataset("toyworld", root, kind="pairs")
    expected = evaluate_pairs(data, load_source("baseline:rgb"))
    (found,) = rows["RGB patches"].values()
    assert found["value"] == pytest.approx(expected.value, abs=1e-9)
    assert (found["low"], found["high"]) == pytest.approx(tuple(expected.interval()))
    page = (tmp_path / "out" / "reproduce.html").read_text()
    assert "6.6" in page
    assert f"{expected.value:.1f} [" in page
    assert "what differs" in page
    assert "<code>diffeat toyworld write" in page
    assert count_pictures(load_table("toyworld"), root) == len(data.images())
    monkeypatch.setattr("diffeat.reproduce.run._run", None)  # a second run scores nothing
    assert CliRunner().invoke(app, words).exit_code == 0


@pytest.mark.slow
def test_every_row_of_the_toy_world_runs_on_what_is_embedded(toy, tmp_path: Path) -> None:
    root, _ = toy
    words = ["reproduce", "toyworld", "--root", str(root), "--limit", "2", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    assert list(rows) == [row.name for row in load_table("toyworld").rows]


def test_a_row_that_cannot_be_run_says_why_and_the_others_go_on(toy, tmp_path: Path) -> None:
    root, _ = toy
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: mine\ndataset: toyworld\nrows:\n"
        "  - {name: trained, paper: p, measure: m, source: none,"
        " train: diffeat train convolution --recipe tiny-unet --out x}\n"
        "  - {name: lost, paper: p, measure: m, source: none, recipe: nowhere.yaml}\n"
        "  - {name: ours, paper: p, number: 5, measure: m, source: s, recipe: 'baseline:rgb'}\n"
    )
    table = load_table(str(file))
    found = {row.name: outcome for row, outcome in run_rows(table, table.rows, root, tmp_path / "out", load_source)}
    assert "diffeat train convolution --recipe tiny-unet --out x" in found["trained"].notes[0]
    assert "nowhere.yaml" in found["lost"].notes[0]
    assert found["ours"].value is not None
    (tmp_path / "out" / "rows.json").write_text("[1]")
    with pytest.raises(InvalidValueError, match=r"rows\.json is damaged"):
        list(run_rows(table, table.rows, root, tmp_path / "out", load_source))


def test_no_number_is_lost_or_taken_for_another(toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = toy
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    file.write_text(
        "title: mine\ndataset: toyworld\nrows:\n"
        "  - {name: ours, paper: p, number: 5, measure: m, source: s, recipe: 'baseline:rgb'}\n"
    )
    table = load_table(str(file))

    def run(load: Any = load_source, **options: Any) -> Any:
        ((_, outcome),) = run_rows(table, table.rows, options.pop("root", root), out, load, **options)
        return outcome

    def told() -> str:
        return (out / "reproduce.md").read_text()

    whole = run()
    assert run(root=tmp_path / "nowhere").value is None
    assert str(whole) in told()
    few = run(limit=2)
    assert few != whole
    assert str(few) in told()

    class Precise:  # the same recipe in another precision
        def __init__(self, recipe: Recipe) -> None:
            self._source = load_source(recipe)

        precision = "bfloat16"

        def __getattr__(self, name: str) -> Any:
            return getattr(self._source, name)

    assert run(Precise).key != whole.key
    monkeypatch.setattr("diffeat.reproduce.run._run", None)
    assert run() == whole
    assert run(limit=2) == few


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("spai", "'spair'"),
        ("spair --rows DIFFT*", "No row is like 'DIFFT*'"),
        ("spair --with DIFT=x", "is no ROW=RECIPE"),
        ("spair --seconds 1", "--seconds would be ignored"),
        ("--plan", "--plan would be ignored"),
    ],
)
def test_what_is_asked_wrongly(words: str, says: str) -> None:
    assert says in str(CliRunner().invoke(app, ["reproduce", *words.split()]).exception)


def test_a_table_of_one_s_own_is_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("title: t\ndataset: toyworld\nrows: [{name: a, paper: p, measure: m, source: s}]")
    with pytest.raises(InvalidValueError, match="either the recipe or the command"):
        load_table(str(file))
    with pytest.raises(UnknownNameError, match="There is no table 'spairs'"):
        load_table("spairs")


def test_the_lists_and_plans_of_the_command() -> None:
    done = CliRunner().invoke(app, ["reproduce"])
    assert "spair" in done.output
    done = CliRunner().invoke(app, ["reproduce", "spair", "--plan", "--rows", "DIFT sd2.1*", "--seconds", "0.05"])
    assert done.exit_code == 0, done.output
    assert "1,800" in done.output
    assert "10.6 GB" in done.output  # as the reference counts it
