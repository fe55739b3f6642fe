"""A user's whole way with heads: datasets in their real layouts, videos, kills by signals, a run that moves."""

from __future__ import annotations

import csv
import json
import multiprocessing
import multiprocessing.process
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from diffeat.cli.main import main
from diffeat.errors import InvalidValueError
from diffeat.extraction import Reading
from diffeat.extraction.contained import contained
from diffeat.tasks.predictors.folder import RECIPE, PredictorFacts, read_run, write_run
from diffeat.techniques.weights import fingerprint_with
from diffeat.training.loop import read_log
from mini_datasets import ade20k, cityscapes, truth
from stand_ins import CITYSCAPES_RAW

QUICK = ["-r", "baseline:rgb", "--steps", "4", "--batch", "2", "--every", "2", "--variants", "1"]
#: Name of the dataset, how it is written, its classes, and pictures and names of its validation split.
LAYOUTS: dict[str, tuple[str, Callable[[Path], Path], int, str]] = {
    "ADE20K": ("ade20k", ade20k, 150, "ADEChallengeData2016/images/validation"),
    "Cityscapes, raw ids": (
        "cityscapes",
        lambda root: cityscapes(root, CITYSCAPES_RAW, train_ids=False),
        19,
        "leftImg8bit/val",
    ),
    "Cityscapes": ("cityscapes", lambda root: cityscapes(root, CITYSCAPES_RAW), 19, "leftImg8bit/val"),
}


def run(*words: object) -> None:
    main([str(word) for word in words])


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a command is refused by."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert caught.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def iou_of(truths: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """The mean over classes that occur or are predicted, counted class by class."""
    known, guess = (np.concatenate([m.ravel() for m in maps]) for maps in (truths, masks))
    guess = guess[known != 255]
    known = known[known != 255]
    seen = np.union1d(known, guess)
    return 100 * float(
        np.mean([((known == c) & (guess == c)).sum() / ((known == c) | (guess == c)).sum() for c in seen])
    )


@pytest.mark.parametrize("name", ["ADE20K", "Cityscapes, raw ids", pytest.param("Cityscapes", marks=pytest.mark.slow)])
def test_a_mini_dataset_in_its_real_layout_is_checked_learned_predicted_and_scored(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, write, classes, pictures = LAYOUTS[name]
    root, head, out = write(tmp_path / "data"), tmp_path / "run", tmp_path / "out"
    run("check", dataset, "--root", root)
    run("train", "segmentation", dataset, "--root", root, "--out", head, "--crop", 24, *QUICK)
    run("predict", root / pictures, "--head", head, "--out", out)
    masks = [np.asarray(Image.open(path)) for path in sorted((out / "masks").rglob("*.png"))]
    truths = [truth(k, classes) for k in range(len(masks))]
    assert [m.shape for m in masks] == [t.shape for t in truths]
    assert max(m.max() for m in masks) < classes
    capsys.readouterr()
    run("eval", dataset, "--root", root, "--head", head, "--out", tmp_path / "scored")
    told = capsys.readouterr().out
    facts = json.loads((tmp_path / "scored" / "report.json").read_text())
    assert facts["value"] == pytest.approx(iou_of(truths, masks))  # void and the shift of labels as in the paper
    assert 0 <= facts["interval"][0] <= facts["interval"][1] <= 100
    assert facts["numbers"]["mean"]["boundary F"]
    assert "windows of 24×24 pixels every 0.667 of it" in told
    assert "boundary F" in told
    assert "pixel accuracy" in told


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of two colours, masks of them, a probe on them, and a video of a square that moves."""
    root = tmp_path_factory.mktemp("own")
    colours = np.array([[90, 90, 90], [210, 60, 60]])
    for part in ("images", "masks"):
        (root / "data" / part).mkdir(parents=True)
    (root / "data" / "classes.txt").write_text("grey\nred\n")
    frames = []
    for k in range(6):
        labels = np.zeros((48, 64), np.uint8)
        labels[12:36, 4 + 4 * k : 28 + 4 * k] = 1
        noisy = colours[labels] + np.random.default_rng(k).normal(0, 8, (48, 64, 3))
        frames.append(noisy.clip(0, 255).astype(np.uint8))
        Image.fromarray(frames[-1]).save(root / "data" / "images" / f"{k}.png")
        Image.fromarray(labels).save(root / "data" / "masks" / f"{k}.png")
    with av.open(str(root / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    run("train", "probe", "folder", "--root", root / "data", "-r", "baseline:rgb", "--out", root / "run")
    return root


def agree(path: Path, k: int, own: Path) -> float:
    return float((np.asarray(Image.open(path)) == np.asarray(Image.open(own / "data" / "masks" / f"{k}.png"))).mean())


def test_a_video_is_predicted_and_its_first_mask_carried(own: Path, tmp_path: Path) -> None:
    run("predict", own / "clip.mp4", "--fps", 5, "--head", own / "run", "--out", tmp_path / "predicted")
    first = own / "data" / "masks" / "0.png"
    run("propagate", own / "clip.mp4", "--mask", first, "-r", "baseline:rgb", "--out", tmp_path / "carried")
    for folder in ("predicted", "carried"):
        masks = sorted((tmp_path / folder / "masks").rglob("*.png"))
        assert len(masks) == 6
        assert min(agree(mask, k, own) for k, mask in enumerate(masks)) > 0.85


def test_names_of_a_table_are_those_of_the_masks(own: Path, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    with table.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "called"])
        rows.writerows([[own / "data" / "images" / f"{k}.png", f"picture {k}"] for k in (4, 1)])
    columns = ["--column", "file", "--name-column", "called"]
    run("predict", table, *columns, "--head", own / "run", "--out", tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())["pictures"]
    assert [row["picture"] for row in rows] == ["picture 4", "picture 1"]
    assert agree(tmp_path / "out" / "masks" / "picture 4.png", 4, own) > 0.9


def test_a_head_is_not_scored_by_what_is_none_of_its_business(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["eval", "folder", "--root", own / "data"]
    head = ["--head", own / "run"]
    assert "--recipe would be ignored" in refused(capsys, *data, *head, "-r", "tiny-unet")
    assert "--classifier would be ignored" in refused(capsys, *data, *head, "--classifier", "linear")
    assert "belong to --head" in refused(capsys, *data, "--window", 32)
    assert "heads are scored on" in refused(capsys, "eval", "spair", *head)
    assert "--head RUN" in refused(capsys, "eval", "folder-depth", "--root", own / "data")
    others = tmp_path / "others"
    shutil.copytree(own / "data", others)
    (others / "classes.txt").write_text("red\ngrey\n")
    assert "label 0 is 'red' there and 'grey'" in refused(capsys, "eval", "folder", "--root", others, *head)


# ---- weights that a recipe names by their place


def reading(lora: Path, model: str) -> Reading:
    recipe = Reading.load("tiny-unet").replace(model=model)
    canny = {"kind": "controlnet", "model": str(lora.parent / "canny")}
    return recipe.replace(techniques=({"kind": "lora", "path": str(lora), "scale": 0.5}, canny))


def test_weights_of_a_recipe_travel_with_the_run_and_a_model_that_stays_is_named(tmp_path: Path) -> None:
    lora, model = tmp_path / "here" / "style.safetensors", tmp_path / "here" / "my model"
    model.mkdir(parents=True)
    save_file({"a": torch.ones(2)}, lora)
    canny = lora.parent / "canny"
    canny.mkdir()
    save_file({"b": torch.ones(3)}, canny / "diffusion_pytorch_model.safetensors")
    (canny / "config.json").write_text("{}")
    facts = PredictorFacts(kind="linear", target="labels", classes=("a", "b"), settings={"activations": []})
    state = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    for name, recipe in (("alone", reading(lora, "tiny-unet")), ("with", reading(lora, str(model)))):
        write_run(tmp_path / name, recipe, facts, state)
        shutil.move(tmp_path / name, tmp_path / f"{name} moved")
    content = lora.read_bytes()
    told = fingerprint_with("model", reading(lora, "tiny-unet").techniques or ())
    lora.unlink()
    shutil.rmtree(canny)
    run = read_run(tmp_path / "alone moved")
    assert isinstance(run.recipe, Reading)
    assert fingerprint_with("model", run.recipe.techniques or ()) == told  # so that the head is not refused
    technique, control = run.recipe.techniques or ()
    folder = Path(control.model)  # pyright: ignore[reportAttributeAccessIssue]
    assert folder.parent.parent == tmp_path / "alone moved"
    assert {p.name for p in folder.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert Path(technique.path).read_bytes() == content  # pyright: ignore[reportAttributeAccessIssue]
    assert Path(technique.path).is_relative_to(tmp_path / "alone moved")  # pyright: ignore[reportAttributeAccessIssue]
    again, copies = contained(run.recipe)  # saved anew it is the same
    assert again.to_yaml() == (tmp_path / "alone moved" / RECIPE).read_text()
    assert next(iter(copies)).startswith("weights/")
    moved = tmp_path / "with moved"
    assert str(model) in (moved / "README.md").read_text()
    model.rename(tmp_path / "my model")
    with pytest.raises(InvalidValueError, match=r"needs .*here/my model.*, which is not there") as caught:
        read_run(moved)
    assert "\n" not in str(caught.value)
    said = yaml.safe_load((moved / RECIPE).read_text())
    (moved / RECIPE).write_text(yaml.safe_dump(said | {"model": str(tmp_path / "my model")}))  # as the message says
    assert getattr(read_run(moved).recipe, "model", "") == str(tmp_path / "my model")
    for file in (moved / "weights").rglob("*.safetensors"):
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        with pytest.raises(InvalidValueError, match="damaged, or half copied"):
            read_run(moved)
        file.write_bytes(whole)
    next((moved / "weights").glob("*.safetensors")).unlink()
    with pytest.raises(InvalidValueError, match="copy the whole folder"):
        read_run(moved)


# ---- real signals

#: Ways to train that differ in what a run must keep to go on.
WAYS: dict[str, list[str]] = {
    "stored features": ["-r", "baseline:rgb", "--head", "fpn", "--channels", "8"],
    "features read anew": ["-r", "baseline:rgb", "--head", "upernet", "--channels", "8", "--blocks", "constant",
                           "--variants", "0", "--photometric", "--precision", "bfloat16", "--accumulate", "2"],
    "a LoRA": ["-r", "tiny-unet", "--size", "32", "--tune", "lora", "--tune-rate", "1e-3"],
    "the denoiser and a text": ["-r", "tiny-unet", "--size", "32", "--tune", "denoiser", "--learn-text"],
}  # fmt: skip


def train(data: Path, out: Path, way: str) -> None:
    """In a process of its own."""
    torch.set_num_threads(1)
    command = ["train", "segmentation", "folder", "--root", str(data), "--out", str(out), *WAYS[way]]
    main([*command, "--steps", "60", "--batch", "2", "--every", "3"])


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_training_killed_by_signals_at_ten_random_moments_ends_in_the_same_weights(
    way: str, own: Path, tmp_path: Path
) -> None:
    """Most are killed between two checkpoints or while one is written, some before their first step."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["diffeat.cli.main", "diffeat.report.heads", "diffeat.extraction.engine"])
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    state = killed / "training" / "state.safetensors"

    def started(out: Path) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=train, args=(own / "data", out, way))
        process.start()
        return process

    def written() -> int:
        return state.stat().st_mtime_ns if state.is_file() else 0

    started(whole).join()
    weights = (whole / "predictor.safetensors").read_bytes()
    rows = read_log(whole / "training" / "log.csv")
    pace = 3 * sum(float(row["seconds"]) for row in rows) / len(rows)
    rng, kills = np.random.default_rng(0), 0
    while True:
        process, before = started(killed), written()
        while kills % 4 != 3 and written() == before and process.is_alive():
            time.sleep(0.001)
        process.join(None if kills == 10 else rng.uniform(0, 1.5 * pace))
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[kills % 3])
            process.join()
        if process.exitcode:
            assert process.exitcode in (-signal.SIGKILL, -signal.SIGTERM, 130)
            kills += 1
            continue
        assert (killed / "predictor.safetensors").read_bytes() == weights
        if kills == 10:
            break
        shutil.rmtree(killed)  # it was faster than the kill
    logs = [read_log(folder / "training" / "log.csv") for folder in (whole, killed)]
    one, other = ([(row["step"], row["loss"], row["validation"]) for row in log] for log in logs)
    assert one == other
