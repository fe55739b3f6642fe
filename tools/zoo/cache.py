"""A cache of drawn pictures on disk, so that training does not wait for drawing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
#: Pictures of fixed traits are those from this index of the world on.
FIXED_FROM = 50_000_000
#: What is fixed: whole figures on a plain background, of any size, and filling the picture.
STUDIO = {"place": "studio", "framing": "whole", "calm": "yes"}
FIXED = {"studio": STUDIO, "large": {**STUDIO, "size": "large"}}


@dataclass(frozen=True, slots=True)
class Counts:
    """How many pictures of each kind, in the order in which they are drawn.

    ``natural`` ones show the world as it comes, ``calm`` ones whole figures without clutter and occluders, ``studio``
    ones such figures on a plain background, ``large`` ones those that fill the picture.
    """

    natural: int = 0
    calm: int = 0
    studio: int = 0
    large: int = 0

    @property
    def last(self) -> int:
        """How many there are of the kind that is drawn last."""
        return next((number for number in reversed(asdict(self).values()) if number), 0)


def draw_shard(shard: int, kind: str, folder: Path, seed: int, size: int, count: int = SHARD) -> None:
    """Draw ``pictures-###.npy``, uint8 ``(count, size, size, 3)``, and ``captions-###.json``; whole or not at all."""
    from diffeat.datasets.toyworld import Toyworld

    pictures, captions = folder / f"pictures-{shard:03d}.npy", folder / f"captions-{shard:03d}.json"
    if pictures.exists():
        return
    world = Toyworld(seed, size)
    indices = range(shard * count, (shard + 1) * count)
    if kind == "natural":
        samples = [world.sample(k) for k in indices]
    elif kind == "calm":
        samples = [world.sample(k) for k in islice(_calm(world, CALM_FROM + shard * 10 * count), count)]
    else:
        samples = [world.sample(FIXED_FROM + k, **FIXED[kind]) for k in indices]
    captions.write_text(json.dumps([s.caption for s in samples]))
    with open(folder / f".pictures-{shard:03d}.{os.getpid()}", "wb") as file:
        np.save(file, np.stack([s.image for s in samples]))
    os.replace(file.name, pictures)


def _calm(world: Toyworld, start: int) -> Iterator[int]:
    for index in count_from(start):
        traits = world.traits(index)
        if traits["calm"] == "yes" and traits["framing"] == "whole":
            yield index


def draw(folder: Path, counts: Counts, seed: int, size: int, workers: int) -> None:
    """Draw pictures with several processes; counts are rounded up to whole shards, unless all are less than one."""
    from multiprocessing import get_context

    folder.mkdir(parents=True, exist_ok=True)
    wanted = asdict(counts)
    count = min(SHARD, max(wanted.values()))
    kinds = [kind for kind, number in wanted.items() for _ in range(-(-number // count))]
    job = partial(draw_shard, folder=folder, seed=seed, size=size, count=count)
    if len(kinds) * count < SHARD:
        for shard, kind in enumerate(kinds):
            job(shard, kind)
        return
    with get_context("spawn").Pool(workers) as pool:
        pool.starmap(job, enumerate(kinds), chunksize=1)


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
