"""Extraction into a store: resumable to the same bytes, failures listed, changed files extracted anew."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, StoreError
from diffeat.extraction import Extractor, Recipe, extract_to_store
from diffeat.storage import FeatureStore
from tiny.pipelines import build

RECIPE = Recipe.from_dict(
    {
        "model": "tiny",
        "frame": {"mode": "squash", "size": 64},
        "trajectory": {"timesteps": [261], "draws": 2},
        "activations": ["up_blocks.0", "up_blocks.1"],
    }
)


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return Extractor(RECIPE, Backbone.from_pipeline(build("sd15")))


def write_photos(folder: Path, count: int) -> list[Path]:
    folder.mkdir(exist_ok=True)
    numbers = np.random.default_rng(0)
    paths = []
    for i in range(count):
        w, h = numbers.integers(20, 90, 2)
        path = folder / f"{i:03d}.png"
        Image.fromarray(numbers.integers(0, 255, (h, w, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


def open_store(path: Path) -> FeatureStore:
    return FeatureStore.open_or_create(path, RECIPE.content(), RECIPE.hash, dtype="float32")


def content(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != ".lock"]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(files)}


def test_a_second_run_has_nothing_to_do(extractor: Extractor, tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 7)
    with open_store(tmp_path / "store") as store:
        first = extract_to_store(extractor, paths, store, shard_size=3)
    before = content(tmp_path / "store")
    with open_store(tmp_path / "store") as store:
        second = extract_to_store(extractor, paths, store, shard_size=3)
        assert store.names() == [p.as_posix() for p in paths]
        assert store.verify().problems == []
    assert first.extracted == second.present == [p.as_posix() for p in paths]
    assert second.extracted == []
    assert content(tmp_path / "store") == before


def test_stored_features_are_the_extracted_ones(extractor: Extractor, tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 4)
    with open_store(tmp_path / "store") as store:
        extract_to_store(extractor, paths, store, ["cat", None, "dog", "cat"], shard_size=3)
    direct = extractor.extract(paths, ["cat", None, "dog", "cat"])
    stored = FeatureStore.open(tmp_path / "store")
    for path, feature in zip(paths, direct, strict=True):
        loaded = stored.load(path.as_posix())
        assert loaded.frame == feature.frame
        for name, value in feature.activations.items():
            assert torch.allclose(loaded[name], value, rtol=1e-5, atol=1e-6)


def test_bad_pictures_are_listed_and_tried_again(extractor: Extractor, tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 6)
    good = paths[1].read_bytes()
    paths[1].write_bytes(good[: len(good) // 2])
    paths[4].write_bytes(b"")
    missing = tmp_path / "photos" / "gone.png"
    with open_store(tmp_path / "store") as store:
        summary = extract_to_store(extractor, [*paths, missing], store, shard_size=4)
        again = extract_to_store(extractor, [*paths, missing], store, shard_size=4)
    bad = {paths[1].as_posix(), paths[4].as_posix(), missing.as_posix()}
    assert set(summary.failed) == set(again.failed) == bad
    assert all(name in reason for name, reason in summary.failed.items())
    assert len(summary.extracted) == len(again.present) == 4
    assert again.extracted == []
    paths[1].write_bytes(good)
    with open_store(tmp_path / "store") as store:
        mended = extract_to_store(extractor, [*paths, missing], store, shard_size=4)
        assert paths[1].as_posix() in mended.extracted
        assert len(store) == 5
        assert store.verify().problems == []


def test_changed_files_and_texts_are_extracted_anew(extractor: Extractor, tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 5)
    with open_store(tmp_path / "store") as store:
        extract_to_store(extractor, paths, store, shard_size=2)
        old = store.load(paths[3].as_posix())["up_blocks.1"].clone()
        paths[3].write_bytes(paths[0].read_bytes())
        summary = extract_to_store(extractor, paths, store, shard_size=2)
        assert set(summary.extracted) == {paths[2].as_posix(), paths[3].as_posix()}
        new = store.load(paths[3].as_posix())["up_blocks.1"]
        assert not torch.equal(old, new)
        assert torch.allclose(new, store.load(paths[0].as_posix())["up_blocks.1"], rtol=1e-5, atol=1e-6)
        worded = extract_to_store(extractor, paths, store, "cat", shard_size=2)
        assert len(worded.extracted) == 5
        assert len(store) == 5


def test_more_files_join_an_old_store(extractor: Extractor, tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 6)
    with open_store(tmp_path / "store") as store:
        extract_to_store(extractor, paths[2:], store, shard_size=2)
        summary = extract_to_store(extractor, paths, store, shard_size=4)
        assert summary.extracted == [p.as_posix() for p in paths[:2]]
        assert sorted(store.names()) == [p.as_posix() for p in paths]


def test_prompts_must_match_the_images(extractor: Extractor, tmp_path: Path) -> None:
    paths = write_photos(tmp_path / "photos", 2)
    with open_store(tmp_path / "store") as store, pytest.raises(InvalidValueError, match="2 images and 1 prompts"):
        extract_to_store(extractor, paths, store, ["cat"])


def test_a_store_of_another_recipe_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "store").close()
    other = RECIPE.replace(**{"trajectory.draws": 3})
    with pytest.raises(StoreError, match=r"trajectory\.draws is 2 there, 3 here"):
        FeatureStore.open_or_create(tmp_path / "store", other.content(), other.hash, dtype="float32")


RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from diffeat.backbones import Backbone
from diffeat.extraction import Extractor, extract_to_store
from test_to_store import RECIPE, open_store
backbone = Backbone.from_pretrained({model!r}, device="cpu")
print("ready", flush=True)
for line in sys.stdin:
    import os
    if os.fork() == 0:
        with open_store(Path({store!r})) as store:
            extract_to_store(Extractor(RECIPE, backbone), sorted(Path({photos!r}).iterdir()), store, shard_size=4)
        os._exit(0)
    pid, status = os.wait()
    print("killed" if os.WIFSIGNALED(status) else "done", flush=True)
"""


def test_sigkill_at_random_moments_changes_nothing(tmp_path: Path) -> None:
    """64 pictures, 20 kills: a resumed store equals an uninterrupted one bit for bit, without an orphan file.

    A store that is finished before the twentieth kill is compared, thrown away and begun again.
    """
    write_photos(tmp_path / "photos", 64)
    build("sd15").save_pretrained(tmp_path / "model")

    def worker(store: str) -> subprocess.Popen:
        code = RUN.format(
            tests=str(Path(__file__).parent),
            model=str(tmp_path / "model"),
            store=str(tmp_path / store),
            photos=str(tmp_path / "photos"),
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert process.stdout.readline() == "ready\n"  # pyright: ignore
        return process

    def child_of(process: subprocess.Popen) -> int:
        listed = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while True:
            found = listed.read_text().split()
            if found:
                return int(found[0])

    whole = worker("whole")
    start = time.monotonic()
    whole.stdin.write("go\n")  # pyright: ignore
    assert whole.stdout.readline() == "done\n"  # pyright: ignore
    duration = time.monotonic() - start
    whole.kill()

    expected = content(tmp_path / "whole")
    chance = random.Random(0)
    resumed = worker("resumed")
    kills = finished = 0
    while kills < 20 or (tmp_path / "resumed").exists():
        resumed.stdin.write("go\n")  # pyright: ignore
        child = child_of(resumed)
        time.sleep(chance.uniform(0, duration / 3))
        if kills < 20:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        if resumed.stdout.readline() == "killed\n":  # pyright: ignore
            kills += 1
        else:
            finished += 1
            assert content(tmp_path / "resumed") == expected
            assert len(FeatureStore.open(tmp_path / "resumed")) == 64
            shutil.rmtree(tmp_path / "resumed")
    resumed.kill()
    assert finished
