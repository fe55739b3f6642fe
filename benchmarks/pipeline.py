"""Everything of an extraction but the model: how many pictures a core sustains, and how busy a device is kept.

    python benchmarks/pipeline.py [--pictures 96] [--only photos large device] [--cores 1] [--again 3]

The autoencoder and the denoiser of ``tiny-unet`` are replaced by stand-ins. One is free: it gives a map of 1280×32×32
that is there already. One takes 20 ms a picture without holding the interpreter, as a GPU would; how long it was at
work, of the time between its first call and its last, is how busy it was. Files in, a float16 store out. Beside every
number a store is compared with features extracted one picture at a time, bit for bit. A call takes 16 pictures, as on a
device of some memory.

On a virtual machine, memory that nobody has used lately costs several times as much to write to as memory that was: the
host has yet to find it. With ``--again`` the store is removed and written so many times more, into the memory that was
its own, and the numbers are those of the median run of these; 0 is the first. Decoding and resizing alone run in turns
with them.

A process is bound to ``--cores`` cores. On a machine with other work the clock tells little: read the CPU time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import MethodType

SHAPE = (1280, 32, 32)
LATENT = (4, 64, 64)
DEVICE_MS = 20.0
SIZES = {"photos": (640, 480), "large": (4032, 3024), "device": (640, 480)}


def write_photos(folder: Path, size: tuple[int, int], count: int) -> list[Path]:
    """JPEG files as a camera would leave them: a photograph, moved and with noise."""
    import numpy as np
    from PIL import Image
    from skimage import data

    photo = Image.fromarray(data.astronaut()).resize(size, Image.Resampling.BICUBIC)
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        grain = rng.normal(0, 2, (size[1], size[0], 1)) if number < 8 else grain
        values = np.roll(np.asarray(photo), 31 * number, axis=1) + np.roll(grain, number, axis=0)
        paths.append(folder / f"{number:04d}.jpg")
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def stand_in(ms: float, several: bool):
    """An extractor without a model, and the seconds that its device was at work.

    Args:
        ms: That a picture takes.
        several: Give every picture a map of its own, for comparisons; it costs a copy.
    """
    import torch

    from diffeat import Extractor, Reading
    from diffeat.backbones import LatentPosterior
    from diffeat.geometry import Frame

    recipe = Reading.from_dict(
        {
            "model": "tiny-unet",
            "frame": {"mode": "squash", "size": 512},
            "trajectory": {"timesteps": [261], "draws": 1, "latent": "sample"},
            "activations": ["mid_block"],
        }
    )
    extractor = Extractor.from_recipe(recipe, device="cpu", batch_size=16)
    maps = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(0))
    calls: list[tuple[float, float]] = []

    def encode(self, pixels, device):
        return LatentPosterior(torch.zeros(len(pixels), *LATENT), torch.ones(len(pixels), *LATENT))

    def run(noisy, times, steered, rows):
        start = time.perf_counter()
        if ms:
            time.sleep(ms / 1000 * len(noisy))
        chosen = [int(1e6 * float(row[0, 0, 0].abs())) % 16 for row in noisy]
        result = maps[chosen] if several else maps[: len(noisy)]
        calls.append((start, time.perf_counter()))
        return {"mid_block": result}

    extractor.backbone._autoencoder.encode = MethodType(encode, extractor.backbone._autoencoder)
    Frame.normalised = lambda self, levels: levels  # a device makes numbers of grey levels itself
    for reading in extractor._views._run._taps.values():
        reading.run = run
    return extractor, calls


def extract(paths: list[Path], out: Path, ms: float, several: bool = False):
    from diffeat.extraction import extract_to_store
    from diffeat.storage import FeatureStore

    extractor, calls = stand_in(ms, several)
    with FeatureStore.of(out, extractor, "float16") as store:
        start, cpu = time.perf_counter(), time.process_time()
        extract_to_store(extractor, paths, store)
        return time.perf_counter() - start, time.process_time() - cpu, calls


def same(paths: list[Path], folder: Path) -> bool:
    """Whether a store holds what pictures give one at a time."""
    import torch

    from diffeat.storage import FeatureStore

    extract(paths, folder, 0.0, several=True)
    extractor, _ = stand_in(0.0, several=True)
    store = FeatureStore.open(folder)
    return all(
        torch.equal(store.load(path.as_posix()).tensor, extractor.extract(path)[0].tensor.half()) for path in paths
    )


def decoding(paths: list[Path]) -> tuple[float, float]:
    """Seconds that decoding and resizing alone take, on as many threads as there are cores."""
    from concurrent.futures import ThreadPoolExecutor

    from diffeat.geometry import FrameSpec, open_image

    spec = FrameSpec(mode="squash", size=512)

    def one(path: Path) -> None:
        image = open_image(path)
        spec.frame(image.size).pixels(image)

    start, cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        list(threads.map(one, paths))
    return time.perf_counter() - start, time.process_time() - cpu


def measure(which: str, count: int, cores: int, again: int) -> dict[str, float | bool]:
    import torch

    if cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        paths = write_photos(folder, SIZES[which], count)
        ms = DEVICE_MS if which == "device" else 0.0
        extract(paths[:2], folder / "warm", ms)
        runs, reads = [extract(paths, folder / "store", ms)], [decoding(paths)]
        for _ in range(again):
            shutil.rmtree(folder / "store")
            runs.append(extract(paths, folder / "store", ms))
            reads.append(decoding(paths))
        wall, cpu, calls = sorted(runs[1:] or runs, key=lambda run: run[0])[again // 2]
        busy = sum(end - start for start, end in calls)
        alone = sorted(reads[1:] or reads)[again // 2]
        return {
            "wall_ms": 1e3 * wall / count,
            "cpu_ms": 1e3 * cpu / count,
            "alone_wall_ms": 1e3 * alone[0] / count,
            "alone_cpu_ms": 1e3 * alone[1] / count,
            "busy": busy / (max(end for _, end in calls) - calls[0][0]),
            "same": same(paths[:6], folder / "same"),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=96)
    parser.add_argument("--only", nargs="*", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--cores", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--again", type=int, default=0, help="in memory that was in use before")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        which, *numbers = args.measure
        print(json.dumps(measure(which, *map(int, numbers))))
        return
    print(f"load {os.getloadavg()[0]:.1f}")
    head = ["pictures", "cores", "CPU per picture", "pictures per CPU second", "by the clock"]
    head += ["decoding and resizing alone (CPU)", "share", "device busy", "same bits"]
    print(f"| {' | '.join(head)} |")
    print("|---" * len(head) + "|")
    for which, cores in itertools.product(args.only, args.cores):
        count = max(8, args.pictures // 8) if which == "large" else args.pictures
        call = [sys.executable, __file__, "--measure", which, str(count), str(cores), str(args.again)]
        r = json.loads(subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])
        cells = [
            f"{which} {'×'.join(map(str, SIZES[which]))}",
            f"{cores}",
            f"{r['cpu_ms']:.1f} ms",
            f"{1e3 / r['cpu_ms']:.1f}",
            f"{1e3 / r['wall_ms']:.1f}/s",
            f"{r['alone_cpu_ms']:.1f} ms",
            f"{100 * r['alone_cpu_ms'] / r['cpu_ms']:.0f} %",
            f"{100 * r['busy']:.1f} %" if which == "device" else "",
            "yes" if r["same"] else "NO",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
