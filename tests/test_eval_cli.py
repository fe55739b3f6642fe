"""The commands match, eval and toyworld, run as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.cli.match import parse_points
from diffeat.datasets.davis import write_toyworld_videos
from diffeat.datasets.registry import DATASETS
from diffeat.errors import DiffeatError, InvalidValueError
from diffeat.evaluation.texts import read_policy
from diffeat.studies.selection.labels import open_labels

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A recipe on the tiny random pipeline of the recorded DIFT runs."""
    file = tmp_path / "tiny-dift.yaml"
    file.write_text(
        f"name: tiny-dift\nmodel: {GOLDEN / 'dift' / 'pipeline'}\nframe: {{mode: squash, size: 96}}\n"
        'template: "a photo of a {}"\ntrajectory: {kind: noise, timesteps: [261], draws: 2}\nactivations: [dift:1]\n'
    )
    return str(file)


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def pictures() -> list[Path]:
    return sorted((GOLDEN / "pck" / "SPair-71k" / "JPEGImages" / "bus").glob("*.jpg"))[:2]


def test_match_prints_json_and_draws(recipe: str, tmp_path: Path) -> None:
    one, other = pictures()
    out = tmp_path / "pictures" / "match.png"
    done = run(
        "match", str(one), str(other), "--recipe", recipe, "--points", "20,30 40,50", "--json", "--out", str(out)
    )
    assert done.exit_code == 0
    data = json.loads(done.stdout)
    assert [m["source"] for m in data["matches"]] == [[20, 30], [40, 50]]
    width, height = Image.open(other).size
    assert all(0 <= m["target"][0] < width and 0 <= m["target"][1] < height for m in data["matches"])
    assert Image.open(out).width > 1000


def test_match_without_points_finds_some(recipe: str) -> None:
    one, other = pictures()
    done = run("match", str(one), str(other), "--recipe", recipe, "--count", "3", "--json")
    assert 1 <= len(json.loads(done.stdout)["matches"]) <= 3


def test_eval_writes_a_report_and_goes_on_with_its_features(recipe: str, tmp_path: Path) -> None:
    arguments = [
        "eval", "spair", "--root", str(GOLDEN / "pck"), "--recipe", recipe, "--limit", "6", "--prompts", "category",
        "--protocol", "dift-point", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    done = run(*arguments)
    assert done.exit_code == 0
    assert "dift-point: distance ≤ α·max(w, h) of the target box" in done.stdout.replace("\n", " ")
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["pictures"]["present"] == 0
    assert data["settings"]["prompts"] == "category"
    assert any("true category" in note for note in data["result"]["notes"])
    first = data["result"]["pck"]
    run(*arguments, "--force")
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    assert again["pictures"]["extracted"] == 0
    assert again["result"]["pck"] == first


def test_toyworld_write(tmp_path: Path) -> None:
    done = run("toyworld", "write", str(tmp_path / "toy"), "--class", "horse", "--images", "2,2,3", "--pairs", "4")
    assert done.exit_code == 0
    listed = (tmp_path / "toy" / "Layout" / "large" / "test.txt").read_text().split()
    assert f"test: {len(listed)} pairs" in done.stdout


def test_points_and_policies(tmp_path: Path) -> None:
    assert parse_points(["1,2 3.5,4", "5,6;7,8"]) == [(1, 2), (3.5, 4), (5, 6), (7, 8)]
    with pytest.raises(InvalidValueError, match="'1;2,3'|got '1'"):
        parse_points(["1;2,3"])
    file = tmp_path / "texts.json"
    file.write_text('{"cat": "a cat"}')
    assert read_policy(str(file)) == {"cat": "a cat"}
    assert read_policy("one {category}") == "one {category}"
    file.write_text("[1]")
    with pytest.raises(InvalidValueError, match="must map"):
        read_policy(str(file))
    with pytest.raises(InvalidValueError, match="no prompt file"):
        read_policy(str(tmp_path / "no.json"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "toyworld-parts --average nonsense --flip --joint-pca 3 --split trn --limit 1",
            "--average, --flip, --joint-pca belong to pairs, but toyworld-parts holds label maps.",
        ),
        ("toyworld-parts --protocol spair", "protocol: Input should be 'native' or 'gdf' (got 'spair')"),
        (
            "davis --protocol gdf",
            "--protocol belongs to pairs and label maps, but davis holds videos.",
        ),
        (
            "toyworld --classifier linear",
            "--classifier belongs to label maps, but toyworld holds pairs.",
        ),
        ("toyworld-classes --splits 3 --radius 4", "--radius belongs to videos; --splits belongs to label maps"),
        (
            "toyworld-parts --vocabulary all",
            "--vocabulary belongs to --task words, but toyworld-parts holds label maps.",
        ),
        ("toyworld-parts --task part", "No task 'part' is scored on label maps. Did you mean 'parts'"),
        ("spair --images x", "--images belongs to spair-json, but spair holds pairs."),
        (
            "davis --year 2016 --last-frames 0 --category x",
            "--category belongs to label maps, but davis holds videos.",
        ),
        ("toyworld --protocol spairs", "Did you mean 'spair'"),
        ("toyworld --average imag", "Did you mean 'image'"),
        ("toyworld --limit 0", "limit"),
        ("toyworld-parts --classifier liner", "classifier: Input should be 'ensemble' or 'linear' (got 'liner')"),
        ("toywolrd", "Did you mean 'toyworld'"),
    ],
    ids=lambda v: v.split()[0] if v.startswith("toyworld") else "",
)
def test_options_of_another_task_are_refused(arguments: str, message: str) -> None:
    done = CliRunner().invoke(app, ["eval", *arguments.split(), "--root", "nowhere", "--model", "no-such-model"])
    assert done.exit_code == 1
    assert isinstance(done.exception, DiffeatError)
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)


def test_eval_takes_thresholds_and_averages(recipe: str, tmp_path: Path) -> None:
    done = run(
        "eval", "spair", "--root", str(GOLDEN / "pck"), "--recipe", recipe, "--limit", "6", "--out", str(tmp_path),
        "--threshold", "0.05", "--threshold", "0.01", "--average", "point", "--prompts", "category",
    )  # fmt: skip
    assert done.exit_code == 0
    data = json.loads((tmp_path / "report.json").read_text())["result"]
    assert list(data["pck"]) == ["0.05", "0.01"]
    assert data["protocol"]["average"] == "point"
    assert data["pck"]["0.05"] == data["overall"]["pck"]["0.05"]["point"]


def test_captions_of_pictures_on_the_command_line(recipe: str, tmp_path: Path) -> None:
    names = [path.name for path in (GOLDEN / "pck" / "SPair-71k" / "JPEGImages").rglob("*.jpg")]
    file = tmp_path / "captions.csv"
    file.write_text("image,prompt\n" + "".join(f'{name},"a picture, {name}"\n' for name in names))
    common = ("spair", "--root", str(GOLDEN / "pck"), "--recipe", recipe, "--limit", "1", "--prompts", str(file))
    told = "2 of 2 pictures were given to the model with captions of their own"
    assert told in " ".join(run("eval", *common).output.split())
    run("sweep", *common, "-t", "261", "-b", "dift:1", "--out", str(tmp_path / "sweep"))
    assert told in json.loads((tmp_path / "sweep" / "sweep.json").read_text())["notes"]


def test_eval_and_propagate_score_videos_alike(recipe: str, tmp_path: Path) -> None:
    root = write_toyworld_videos(tmp_path / "davis", videos=2, frames=3, size=48)
    options = ["--recipe", recipe, "--video", "toy-01", "--last-frames", "0", "--frames-of", "toy-77=2"]
    masks = ["--masks", str(tmp_path / "masks")]
    one = run("eval", "davis", "--root", str(root), *options, "--out", str(tmp_path / "eval"), *masks)
    told = " ".join(one.output.split())
    assert "Note: another number of last frames is for toy-77, which the data do not have" in told
    with pytest.raises(InvalidValueError, match="is there already"):
        run("eval", "davis", "--root", str(root), *options, *masks)
    other = run("propagate", "--root", str(root), *options, "--out", str(tmp_path / "out"))
    assert (one.exit_code, other.exit_code) == (0, 0)
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("eval", "out")]
    assert reports[0] == reports[1]
    assert {o["video"] for o in reports[0]["objects"]} == {"toy-01"}
    assert "first and last 0 (toy-77=2) frames" in reports[0]["settings"]
    assert len(list((tmp_path / "out" / "masks" / "toy-01").iterdir())) == 3


def test_datasets_without_a_val_split_are_not_tuned_on_their_test_split(recipe: str, tmp_path: Path) -> None:
    base = ["-t", "100", "-b", "dift:1", "-r", recipe, "--root", str(tmp_path), "--out", str(tmp_path / "sweep")]
    for name in ("cub", "hpatches-points"):
        done = CliRunner().invoke(app, ["sweep", name, *base])
        assert "nothing is chosen on the split that is scored" in str(done.exception)
    with pytest.raises(InvalidValueError, match="no val or train split"):
        open_labels("hpatches-points", tmp_path)


def test_help_names_what_is_registered() -> None:
    text = " ".join(run("eval", "--help").stdout.replace("│", " ").split())
    for name in (*DATASETS, "--flip", "--classifier", "--radius", "--images"):
        assert name in text
    assert "ap10k" in run("train", "hyperfeatures", "--help").stdout
