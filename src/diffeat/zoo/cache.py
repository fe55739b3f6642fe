"""A cache of drawn pictures on disk, so that training does not wait for drawing."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARD = 2000


def draw_shard(shard: int, folder: Path, seed: int, size: int, count: int = SHARD) -> None:
    """Draw ``pictures-###.npy``, uint8 ``(count, size, size, 3)``, and ``captions-###.json``; whole or not at all."""
    from diffeat.datasets.toyworld import Toyworld

    pictures, captions = folder / f"pictures-{shard:03d}.npy", folder / f"captions-{shard:03d}.json"
    if pictures.exists():
        return
    world = Toyworld(seed, size)
    samples = [world.sample(shard * SHARD + k) for k in range(count)]
    captions.write_text(json.dumps([s.caption for s in samples]))
    with open(folder / f".pictures-{shard:03d}.{os.getpid()}", "wb") as file:
        np.save(file, np.stack([s.image for s in samples]))
    os.replace(file.name, pictures)


def draw(folder: Path, count: int, seed: int, size: int, workers: int) -> None:
    """Draw ``count`` pictures (rounded up to whole shards, or fewer than a shard exactly) with several processes."""
    from multiprocessing import get_context

    folder.mkdir(parents=True, exist_ok=True)
    if count < SHARD:
        draw_shard(0, folder, seed, size, count)
        return
    job = partial(draw_shard, folder=folder, seed=seed, size=size)
    with get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap(job, range(-(-count // SHARD)), chunksize=1):
            pass


def shards(folder: Path) -> list[Path]:
    """The finished picture shards, in order."""
    return sorted(folder.glob("pictures-*.npy"))


def captions_of(pictures: Path) -> list[str]:
    """The captions that belong to a picture shard."""
    return json.loads(
        (pictures.parent / pictures.name.replace("pictures", "captions")).with_suffix(".json").read_text()
    )


def load(path: Path) -> NDArray[np.uint8]:
    """A picture shard, mapped."""
    return np.load(path, mmap_mode="r")
