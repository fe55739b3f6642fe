"""``diffeat train probe``, ``predict`` and ``transfer`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffeat.cli.main import main

COLOURS = np.array([[90, 90, 90], [200, 60, 60]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One's own pictures and masks, and a run that was trained on them."""
    root = tmp_path_factory.mktemp("own")
    for part in ("images", "masks"):
        (root / "data" / part).mkdir(parents=True)
    (root / "data" / "classes.txt").write_text("grey\nred\n")
    for k in range(8):
        rng = np.random.default_rng(k)
        labels = np.kron(rng.integers(0, 2, (3, 4)), np.ones((16, 16), int)).astype(np.uint8)
        noisy = COLOURS[labels] + rng.normal(0, 15, (*labels.shape, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / "data" / "images" / f"{k}.png")
        Image.fromarray(labels).save(root / "data" / "masks" / f"{k}.png")
    main(["train", "probe", "folder", "--root", str(root / "data"), "-r", "baseline:rgb", "--out", str(root / "run")])
    return root


def test_a_run_predicts_and_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    images, out = folder / "data" / "images", tmp_path / "out"
    command = [
        "predict",
        str(images),
        "--head",
        str(folder / "run"),
        "--out",
        str(out),
        "--window",
        "32",
        "--stride",
        "16",
    ]
    main(command)
    scores = json.loads((out / "scores.json").read_text())
    assert [row["picture"] for row in scores["pictures"]] == [f"{k}.png" for k in range(8)]
    assert scores["classes"] == ["grey", "red"]
    mask, truth = (np.asarray(Image.open(p / "3.png")) for p in (out / "masks", folder / "data" / "masks"))
    assert (mask == truth).mean() > 0.9
    assert {p.name for p in out.iterdir()} >= {"overlays", "uncertainty", "sheet.jpg", "predictions.html"}
    # killed after three pictures: a line is cut, later masks are missing
    lines = (out / "scores.jsonl").read_text().splitlines()
    (out / "scores.jsonl").write_text("\n".join([*lines[:4], lines[4][:20]]))
    before = (out / "masks" / "0.png").stat().st_mtime_ns
    (out / "masks" / "7.png").unlink()
    main(command)
    assert json.loads((out / "scores.json").read_text())["pictures"] == scores["pictures"]
    assert (out / "masks" / "7.png").is_file()
    assert (out / "masks" / "0.png").stat().st_mtime_ns == before


WRONG = {
    "another way": (
        ["predict", "{images}", "--head", "{run}", "--out", "{old}", "--window", "24"],
        "another head, or made",
    ),
    "no run": (["predict", "{images}", "--head", "{gone}", "--out", "{new}"], "run folder"),
    "no picture": (["predict", "{gone}", "--head", "{run}", "--out", "{new}"], "no picture and no folder"),
    "stride alone": (["predict", "{images}", "--head", "{run}", "--out", "{new}", "--stride", "9"], "no windows"),
    "no size": (["predict", "{images}", "--head", "{run}", "--out", "{new}", "--window", "big"], "takes pixels"),
    "gaps": (
        ["predict", "{images}", "--head", "{run}", "--out", "{new}", "--window", "8", "--stride", "9"],
        "larger than the windows",
    ),
    "run there": (["train", "probe", "folder", "--root", "{data}", "-r", "baseline:rgb", "--out", "{run}"], "already"),
    "pairs": (["train", "probe", "csv", "--root", "{data}", "--out", "{new}"], "label maps or classes"),
    "members": (["train", "probe", "folder", "--root", "{data}", "--members", "3", "--out", "{new}"], "ensemble"),
    "mark outside": (["transfer", "{image}", "999,2", "{images}", "-r", "baseline:rgb", "--out", "{new}"], "outside"),
    "no mask": (["propagate", "{images}", "-r", "baseline:rgb", "--out", "{new}"], "--mask"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_told_in_a_line(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data, old = folder / "data", tmp_path / "old"
    if name == "another way":
        main(["predict", str(data / "images" / "0.png"), "--head", str(folder / "run"), "--out", str(old)])
    places = {
        "data": data, "images": data / "images", "image": data / "images" / "0.png", "run": folder / "run",
        "gone": tmp_path / "gone", "new": tmp_path / "new", "old": old,
    }  # fmt: skip
    words, message = WRONG[name]
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main([word.format(**places) for word in words])
    assert caught.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert message in told[-1]
    assert not any("Traceback" in line for line in told)
    assert not (tmp_path / "new").exists()


def test_marks_and_a_first_mask_go_to_other_pictures(folder: Path, tmp_path: Path) -> None:
    images, masks = folder / "data" / "images", folder / "data" / "masks"
    first, recipe = str(images / "0.png"), ["-r", "baseline:rgb"]
    main(["transfer", first, str(masks / "0.png"), str(images), *recipe, "--out", str(tmp_path / "found")])
    rows = json.loads((tmp_path / "found" / "transfer.json").read_text())["pictures"]
    assert len(rows) == 8
    carried = np.asarray(Image.open(tmp_path / "found" / "masks" / "0.png"))
    assert (carried == np.asarray(Image.open(masks / "0.png"))).mean() > 0.9
    main(["propagate", str(images), "--mask", str(masks / "0.png"), *recipe, "--out", str(tmp_path / "video")])
    assert len(list((tmp_path / "video" / "masks").iterdir())) == 8
