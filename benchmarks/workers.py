"""Workers against one process: speed, equal bytes, and what follows for 64 GPUs.

    python benchmarks/workers.py [--pictures 96] [--rounds 3] [--no-ray]

Every run extracts the same photographs with the same recipe on one thread per worker, after its workers have loaded the
model. Two workers need two cores: on a machine that others use, ``quiet`` is the time without that in which the
system had a worker wait for a core (Linux's ``schedstat``), and the ratios to quote are those of ``quiet``. They
are of medians over rounds in which all take turns: a core may be faster or slower from minute to minute. The
queueing model of :mod:`diffeat.distributed.simulate` gets its constants from one worker and is checked on two.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from diffeat.distributed import Workers
from diffeat.distributed.cluster import RayHosts
from diffeat.distributed.local import LocalHosts
from diffeat.distributed.simulate import Costs, simulate
from diffeat.distributed.worker import Task
from diffeat.extraction import Recipe, extract_to_store, load_source
from diffeat.features import FeatureMap, Source
from diffeat.storage import FeatureStore

SHARD = 8


def photographs(folder: Path, count: int) -> list[Path]:
    """Smooth noise, 640×480, JPEG."""
    folder.mkdir()
    chance, paths = np.random.default_rng(0), []
    for number in range(count):
        small = chance.integers(0, 255, (15, 20, 3), dtype=np.uint8)
        paths.append(folder / f"{number:05d}.jpg")
        Image.fromarray(small).resize((640, 480), Image.Resampling.BICUBIC).save(paths[-1], quality=92)
    return paths


def threads(process: int) -> dict[str, tuple[float, float]]:
    """Seconds that each thread of a process ran, and that it waited for a core."""
    times = {}
    for task in Path(f"/proc/{process}/task").iterdir():
        ran, waited, _ = (task / "schedstat").read_text().split()
        times[task.name] = int(ran) / 1e9, int(waited) / 1e9
    return times


def measured(processes: list[int], run: Callable[[], object]) -> dict[str, float]:
    """Wall-clock seconds of a run; seconds of the processor, all of the workers' and this process's own; the longest
    time of a worker without waits for a core."""
    before = [threads(process) for process in processes]
    own, began = time.process_time(), time.perf_counter()
    run()
    wall = time.perf_counter() - began
    driver = time.process_time() - own
    used, quiet = 0.0, 0.0
    for process, old in zip(processes, before, strict=True):
        spent = [
            (ran - old.get(thread, (0, 0))[0], waited - old.get(thread, (0, 0))[1])
            for thread, (ran, waited) in threads(process).items()
        ]
        used += sum(ran for ran, _ in spent)
        quiet = max(quiet, wall - max(spent)[1])  # of the thread that computes
    return {"wall": wall, "cpu": used, "quiet": quiet, "driver": driver}


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3, help="in which all take turns; medians are printed")
    parser.add_argument("--recipe", default="tiny-dift")
    parser.add_argument("--no-ray", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of Ray's workers
    recipe = Recipe.load(args.recipe)
    print(f"{args.pictures} pictures, {recipe.name}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")

    load = partial(load_source, recipe, device="cpu")
    task = Task(load)
    kinds: dict[str, Callable[[], Any]] = {
        "no workers": load,
        "1 worker": lambda: Workers(recipe, LocalHosts([task]), load),
        "2 workers": lambda: Workers(recipe, LocalHosts([task] * 2), load),
    }
    if not args.no_ray:
        kinds["1 Ray worker"] = lambda: Workers(recipe, RayHosts.join("local", 1, task.load, "cpu"), load)
        kinds["2 Ray workers"] = lambda: Workers(recipe, RayHosts.join("local", 2, task.load, "cpu"), load)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        paths = photographs(folder / "photos", args.pictures)
        reference: dict[str, bytes] = {}
        for number, (name, make) in itertools.product(range(args.rounds), kinds.items()):
            where = folder / f"{number} {name}"
            with ExitStack() as stack:
                source = make()
                processes = [os.getpid()]
                if isinstance(source, Workers):
                    stack.enter_context(source)
                    extract(source, paths[: 2 * SHARD], folder / f"warm {where.name}")
                    while len(source.ready) < (2 if name.startswith("2") else 1):
                        source._hear()
                    processes = [hello.process for hello in source.ready]
                else:
                    extract(source, paths[: 2 * SHARD], folder / f"warm {where.name}")
                rounds[name].append(measured(processes, lambda: extract(source, paths, where)))  # noqa: B023
            here = content(where)
            reference = reference or here
            same = "same bytes" if here == reference else "OTHER BYTES"
            print(f"{name:14}", *(f"{key} {value:7.2f} s" for key, value in rounds[name][-1].items()), same, flush=True)
    results = {
        name: {key: statistics.median(each[key] for each in several) for key in several[0]}
        for name, several in rounds.items()
    }
    compare(results, args.pictures)


def extract(source: Source[FeatureMap], paths: list[Path], where: Path) -> None:
    with FeatureStore.of(where, source, "float16") as store:
        extract_to_store(source, paths, store, shard_size=SHARD)


def compare(results: dict[str, dict[str, float]], pictures: int) -> None:
    """Ratios, and the queueing model."""
    one, two = results["1 worker"], results["2 workers"]
    for key in ("wall", "quiet"):
        print(f"two workers against one, by {key}: {one[key] / two[key]:.2f}×")
    print(f"two workers against one, by processor time of a picture: {2 * one['cpu'] / two['cpu']:.2f}×")
    for name, other in (("1 worker", "no workers"), ("1 Ray worker", "no workers"), ("1 Ray worker", "1 worker")):
        if name in results:
            more = [100 * (results[name][key] / results[other][key] - 1) for key in ("wall", "quiet", "cpu")]
            print(f"{name} over {other}: wall {more[0]:+.1f} %, quiet {more[1]:+.1f} %, processor {more[2]:+.1f} %")
    units = -(-pictures // SHARD)
    unit = one["quiet"] / units
    told = simulate(units, 2, Costs(unit)).seconds
    apart = two["quiet"] / told - 1
    print(f"queueing model: two workers {told:.2f} s, measured {two['quiet']:.2f} s quiet ({apart:+.1%})")
    print(
        "64 GPUs, a million pictures, 50 pictures/s each, shards of 64, 2.6 MB a picture, 2 ms of the driver a shard:"
    )
    for rate in (2, 5, 10, 20):
        costs = Costs(64 / 50, 64 * 2.6e-3 / rate, 2e-3, start=60, spread=0.05)
        outcome = simulate(15625, 64, costs)
        print(
            f"  storage {rate:2} GB/s: {outcome.seconds / 60:6.1f} min, GPUs busy {outcome.workers:.0%}, storage "
            f"{outcome.storage:.0%}, driver {outcome.driver:.0%}"
        )


if __name__ == "__main__":
    main()
