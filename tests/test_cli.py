"""The command line, as a person uses it: results, messages, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffeat.cli.main import main
from diffeat.extraction import Extractor, Recipe, preset_names
from diffeat.storage import FeatureStore
from tiny.pipelines import build


class Result:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["diffeat", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as leave:
            code = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "sd"
    build("sd15").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(model: Path) -> Path:
    path = model.parent / "recipe.yaml"
    Recipe.from_dict(
        {
            "model": str(model),
            "frame": {"mode": "squash", "size": 64},
            "template": "a photo of a {}",
            "trajectory": {"timesteps": [261]},
            "activations": ["up_blocks.0", "up_blocks.1"],
        }
    ).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    numbers = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "deeper/c.png"):
        Image.fromarray(numbers.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_help_is_instant() -> None:
    """Nothing heavy is imported for it; what takes its half second then is Python, typer and rich."""
    code = (
        "import sys\n"
        "from diffeat.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = ('torch', 'numpy', 'PIL', 'diffusers', 'transformers', 'pydantic', 'pyarrow', 'matplotlib', 'scipy')\n"
        "print('heavy:', [m for m in heavy if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout
    for command in ("extract", "show", "activations", "recipes", "store", "samples"):
        assert command in done.stdout


def test_recipes(run: Callable[..., Result], tmp_path: Path) -> None:
    table = run("recipes")
    assert table.code == 0
    assert all(name in table.out for name in preset_names())
    (tmp_path / "mine.yaml").write_text(run("recipes", "dift-sd21").out)
    assert Recipe.load(tmp_path / "mine.yaml") == Recipe.load("dift-sd21")
    assert "# ours" in run("recipes", "gate-sd15-horse21-released").out  # with the notes of the file
    assert Recipe.load("gdf-sd15-horse21").to_yaml() == run("recipes", "gdf-sd15-horse21").out  # which has no file
    schema = json.loads(run("recipes", "--schema").out)["$defs"]
    assert "trajectory" in schema["Reading"]["properties"]
    assert {"Vision", "Baseline", "Joined"} <= set(schema)
    wrong = run("recipes", "dift-sd-21")
    assert wrong.code == 2
    assert "dift-sd21" in wrong.err


def test_activations(run: Callable[..., Result], model: Path) -> None:
    table = run("activations", model, "--kind", "attention-q", "--like", "*attn2.q")
    assert table.code == 0
    assert "up_blocks.1.attentions.0.transformer_blocks.0.attn2.q" in table.out
    assert "gdf:up-level1-repeat0-vit-block0-cross-q" in table.out
    assert "attn1" not in table.out
    wrong = run("activations", model, "--kind", "atention-q")
    assert wrong.code == 2
    assert "attention-q" in wrong.err


def test_extract_and_store(run: Callable[..., Result], photos: Path, recipe: Path, tmp_path: Path) -> None:
    done = run("extract", photos, "-r", recipe, "-o", tmp_path / "store")
    assert done.code == 0, done.err
    assert "3 extracted" in done.err
    again = run("extract", photos, "-r", recipe, "-o", tmp_path / "store")
    assert again.code == 0
    assert "0 extracted, 3 already there" in again.err
    listing = run("store", tmp_path / "store")
    assert "up_blocks.1" in listing.out
    assert "a.png" in listing.out
    assert run("store", tmp_path / "store", "--verify").code == 0
    shard = next((tmp_path / "store" / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[-1] ^= 0xFF
    shard.write_bytes(data)
    broken = run("store", tmp_path / "store", "--verify")
    assert broken.code == 1
    assert shard.name in broken.out + broken.err


def test_bad_pictures_are_listed_and_the_good_ones_done(
    run: Callable[..., Result], photos: Path, recipe: Path, tmp_path: Path
) -> None:
    (photos / "notes.txt").write_text("no picture")
    (photos / "empty.png").write_bytes(b"")
    (photos / "cut.jpg").write_bytes((photos / "b.jpg").read_bytes()[:300])
    (photos / "fake.png").write_text("hello")
    done = run("extract", photos, photos / "gone.png", "-r", recipe, "-o", tmp_path / "store")
    assert done.code == 1
    assert "3 extracted" in done.err
    assert "4 failed" in done.err
    assert "1 files that are no pictures" in done.err
    words = done.err.replace("\n", " ")
    for name in ("notes.txt", "empty.png", "cut.jpg", "fake.png", "gone.png"):
        assert name in words
    assert len(FeatureStore.open(tmp_path / "store")) == 3


def test_texts_per_picture(run: Callable[..., Result], photos: Path, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("image,prompt\na.png,cat\nc.png,dog\nb.jpg,\n")
    done = run("extract", photos, "-r", recipe, "-o", tmp_path / "store", "--prompts", tmp_path / "texts.csv")
    assert done.code == 0, done.err
    store = FeatureStore.open(tmp_path / "store")
    texts = {Path(f.image).name: f.provenance["prompt"] for f in store}
    assert texts == {"a.png": "a photo of a cat", "b.jpg": "", "c.png": "a photo of a dog"}
    (tmp_path / "wrong.csv").write_text("file,prompt\na.png,cat\n")
    wrong = run("extract", photos, "-r", recipe, "-o", tmp_path / "other", "--prompts", tmp_path / "wrong.csv")
    assert wrong.code == 2
    assert "'image'" in wrong.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-a", "up_block.1"], ["up_block.1", "up_blocks.1"]),
        (["-a", "gdf:vit-block3-q"], ["gdf:vit-block3-q"]),
        (["-a", "up_blocks.1.adaln"], ["adaln"]),
        (["-t", "1200"], ["1200", "0…1000"]),
        (["-t", "-5"], ["-5"]),
        (["--dtype", "float"], ["float", "float32"]),
        (["--size", "65"], ["65", "64"]),
        (["--store-dtype", "fp16"], ["fp16", "float16"]),
        (["-m", "sd1.5"], ["sd1.5", "sd15"]),
        (["-m", "./nothing"], ["./nothing"]),
    ],
    ids=lambda o: " ".join(o),
)
def test_wrong_options_get_one_clear_message(
    run: Callable[..., Result], photos: Path, recipe: Path, tmp_path: Path, options: list[str], words: list[str]
) -> None:
    done = run("extract", photos, "-r", recipe, "-o", tmp_path / "store", *options)
    assert done.code != 0
    assert "Traceback" not in done.err
    for word in words:
        assert word in done.err, done.err


def test_a_folder_that_is_no_pipeline(run: Callable[..., Result], photos: Path, recipe: Path, tmp_path: Path) -> None:
    done = run("extract", photos, "-r", recipe, "-o", tmp_path / "store", "-m", photos)
    assert done.code == 2
    assert str(photos) in done.err
    assert "model_index.json" in done.err
    assert not (tmp_path / "store").exists()


def test_a_store_of_another_recipe(run: Callable[..., Result], photos: Path, recipe: Path, tmp_path: Path) -> None:
    assert run("extract", photos, "-r", recipe, "-o", tmp_path / "store").code == 0
    other = run("extract", photos, "-r", recipe, "-o", tmp_path / "store", "-t", "100")
    assert other.code == 2
    assert "timesteps" in other.err


def test_a_folder_that_cannot_be_written(run: Callable[..., Result], photos: Path, recipe: Path) -> None:
    done = run("extract", photos, "-r", recipe, "-o", "/proc/store")
    assert done.code == 2
    assert "/proc/store" in done.err


def test_show(run: Callable[..., Result], photos: Path, recipe: Path, tmp_path: Path) -> None:
    run("extract", photos, "-r", recipe, "-o", tmp_path / "store")
    from_store = run("show", tmp_path / "store", "-o", tmp_path / "store.png")
    from_files = run("show", photos, "-r", recipe, "-o", tmp_path / "files.png", "--shared")
    words = run("show", photos, "-r", recipe, "--prompt", "cat", "-w", "cat", "-o", tmp_path / "words.png")
    for done, name in ((from_store, "store.png"), (from_files, "files.png"), (words, "words.png")):
        assert done.code == 0, done.err
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 400
            assert picture.height > 400
            assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 1000
    no_prompt = run("show", photos, "-r", recipe, "-w", "cat")
    assert no_prompt.code == 2
    assert "--prompt" in no_prompt.err
    no_word = run("show", photos, "-r", recipe, "--prompt", "cat", "-w", "dog", "-o", tmp_path / "x.png")
    assert no_word.code == 2
    assert "dog" in no_word.err


def test_samples(run: Callable[..., Result], tmp_path: Path) -> None:
    done = run("samples", tmp_path / "photos")
    assert done.code == 0
    paths = done.out.split()
    assert len(paths) >= 4
    assert all(Path(p).is_file() for p in paths)


def test_an_interrupt_leaves_a_store_that_goes_on(
    run: Callable[..., Result], photos: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C: one line, exit code 130, and the next run completes."""
    original, before = Extractor.read, signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        yield from original(*arguments)

    command = ["extract", photos, "-r", recipe, "-o", tmp_path / "store"]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Extractor, "read", interrupted)
            done = run(*command)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.code, len(done.err.strip().splitlines())) == (130, 1)
    assert "Stopped." in done.err
    assert run(*command).code == 0
    assert len(FeatureStore.open(tmp_path / "store")) == 3
