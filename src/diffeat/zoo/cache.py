"""A cache of drawn pictures on disk, so that training does not wait for drawing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from diffeat.datasets.toyworld import Toyworld

SHARD = 2000


#: Calm pictures are sought from this index of the world on.
CALM_FROM = 10_000_000
#: Studio pictures are those from this index of the world on.
STUDIO_FROM = 50_000_000


def draw_shard(shard: int, folder: Path, seed: int, size: int, natural: int, calm: int, count: int = SHARD) -> None:
    """Draw ``pictures-###.npy``, uint8 ``(count, size, size, 3)``, and ``captions-###.json``; whole or not at all.

    The first ``natural`` shards show the world as it comes; the next ``calm`` ones show whole figures only, without
    clutter and occluders; those after them show such figures before a plain background.
    """
    from diffeat.datasets.toyworld import Toyworld

    pictures, captions = folder / f"pictures-{shard:03d}.npy", folder / f"captions-{shard:03d}.json"
    if pictures.exists():
        return
    world = Toyworld(seed, size)
    indices = range(shard * count, (shard + 1) * count)
    if shard >= natural + calm:
        samples = [world.sample(STUDIO_FROM + k, place="studio", framing="whole", calm="yes") for k in indices]
    elif shard >= natural:
        samples = [world.sample(k) for k in islice(_calm(world, CALM_FROM + shard * 10 * count), count)]
    else:
        samples = [world.sample(k) for k in indices]
    captions.write_text(json.dumps([s.caption for s in samples]))
    with open(folder / f".pictures-{shard:03d}.{os.getpid()}", "wb") as file:
        np.save(file, np.stack([s.image for s in samples]))
    os.replace(file.name, pictures)


def _calm(world: Toyworld, start: int) -> Iterator[int]:
    for index in count_from(start):
        traits = world.traits(index)
        if traits["calm"] == "yes" and traits["framing"] == "whole":
            yield index


def draw(folder: Path, natural: int, calm: int, studio: int, seed: int, size: int, workers: int) -> None:
    """Draw pictures with several processes: ``natural`` ones as they come, then ``calm`` ones, then ``studio`` ones.

    Counts are rounded up to whole shards, unless all are less than one.
    """
    from multiprocessing import get_context

    folder.mkdir(parents=True, exist_ok=True)
    count = min(SHARD, max(natural, calm, studio))
    first, second, third = (-(-wanted // count) for wanted in (natural, calm, studio))
    total = first + second + third
    job = partial(draw_shard, folder=folder, seed=seed, size=size, natural=first, calm=second, count=count)
    if total * count < SHARD:
        for shard in range(total):
            job(shard)
        return
    with get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap(job, range(total), chunksize=1):
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
