"""Dense heads: memory against enlarging features, and what a training step waits for its data.

    python benchmarks/heads_memory.py [--pictures 16] [--steps 20]

1. Peak memory of a linear classifier of 150 classes at 512×512 pixels: maps enlarged and joined first, or scores
   enlarged; both give the same scores. Each in a fresh process.
2. A training of UPerNet from a store of Generic Diffusion Feature's maps (3,520 channels at 512²): seconds of a step,
   the share of them that is spent waiting for data, and the process's peak memory. Maps are random numbers.
3. Peak memory of a prediction in windows of 512 every 256 of a picture of 2048×1024 pixels, and of one four times as
   high, less what the picture and its prediction take (16 bytes a pixel); a head of 19 classes on colours.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

#: Channels and grid of each map of gdf-sd15 at 512 pixels.
MAPS = {
    "up-level1 cross-q": (1280, 16),
    "up-level1 res": (1280, 16),
    "up-level2 cross-q": (640, 32),
    "up-level3 self-k": (320, 64),
}
CLASSES = 150


def peak() -> float:
    """GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def layout():
    from diffeat.extraction import Baseline
    from diffeat.features import FeatureMap
    from diffeat.geometry import Frame
    from diffeat.tasks.dense import Layout

    frame = Frame((512, 512), (512, 512), (0, 0, 512, 512))
    maps = {name: torch.randn(c, side, side) for name, (c, side) in MAPS.items()}
    example = FeatureMap(maps, frame, "x", "x")
    return Layout.of(Baseline(), example), example


@torch.no_grad()
def classify(way: str) -> dict:
    from diffeat.tasks.dense import DecoderOptions, DenseNetwork

    torch.manual_seed(0)
    levels, example = layout()
    network = DenseNetwork(levels, CLASSES, DecoderOptions()).eval()
    maps = {name: values[None] for name, values in example.activations.items()}
    before = peak()
    if way == "scores":
        result = F.interpolate(network(maps)[0], size=(512, 512), mode="bilinear")
    else:
        decoder = network.decoder
        wide = torch.cat([F.interpolate(x, size=(512, 512), mode="bilinear") for x in network.levels(maps)], dim=1)
        norms = [(n.running_mean, n.running_var, n.weight, n.bias) for n in decoder.norms]
        normed = F.batch_norm(wide, *(torch.cat(parts) for parts in zip(*norms, strict=True)))
        kernel = torch.cat([c.weight for c in decoder.classifiers], dim=1)
        result = F.conv2d(normed, kernel, decoder.classifiers[0].bias)
    return {
        "gib": peak() - before,
        "sum": float(result.double().abs().mean()),
        "some": result[0, :3, 100, 200].tolist(),
    }


def train(pictures: int, steps: int) -> dict:
    import numpy as np
    from PIL import Image

    from diffeat.datasets import MaskDataset
    from diffeat.datasets.labelled import MaskSample
    from diffeat.extraction import Baseline
    from diffeat.features import FeatureMap, Group, Streams
    from diffeat.geometry import Frame
    from diffeat.tasks.dense import DenseOptions
    from diffeat.training.heads.train import train_dense
    from diffeat.training.loop import read_log

    class Random(Streams[FeatureMap]):
        recipe, fingerprint, precision = Baseline(), "random", "float32"

        def group(self, picture):
            return Group(picture.name, 1)

        def read(self, group):
            for picture in group:
                frame = Frame((512, 512), (512, 512), (0, 0, 512, 512))
                yield FeatureMap(
                    {n: torch.randn(c, s, s) for n, (c, s) in MAPS.items()}, frame, picture.name, picture.digest
                )

    with tempfile.TemporaryDirectory() as name:
        folder, samples = Path(name), []
        for k in range(pictures):
            rng = np.random.default_rng(k)
            Image.fromarray(rng.integers(0, 255, (512, 512, 3), np.uint8)).save(folder / f"{k}.jpg")
            Image.fromarray(rng.integers(0, CLASSES, (16, 16), np.uint8).repeat(32, 0).repeat(32, 1)).save(
                folder / f"{k}.png"
            )
            samples.append(MaskSample(folder / f"{k}.jpg", folder / f"{k}.png"))
        data = MaskDataset("random", "", tuple(samples), tuple(map(str, range(CLASSES))))
        options = DenseOptions(
            head="upernet", blocks="constant", steps=steps, every=steps, batch=2, variants=1, crop="whole"
        )
        start = time.perf_counter()
        train_dense(Random(), data, folder / "run", options, store_dtype="float16")
        rows = read_log(folder / "run" / "training" / "log.csv")[2:]
        seconds, waited = (sum(float(r[c]) for r in rows) / len(rows) for c in ("seconds", "waited"))
        return {
            "step_s": seconds,
            "waited": waited / seconds,
            "peak_gib": peak(),
            "total_s": time.perf_counter() - start,
        }


def slide(rows: int) -> dict:
    import numpy as np

    from diffeat.extraction import load_source
    from diffeat.tasks.predictors.folder import PredictorFacts
    from diffeat.tasks.predictors.predictor import Predictor
    from diffeat.tasks.predictors.probes import LinearPixels
    from diffeat.tasks.predictors.windows import Windows

    source = load_source("baseline:rgb")
    (example,) = source.extract(np.zeros((64, 64, 3), np.uint8))
    classes = 19
    head = LinearPixels(torch.randn(classes, example.tensor.shape[0]), torch.zeros(classes), list(example.activations))
    names = tuple(map(str, range(classes)))
    predictor = Predictor(source, head, PredictorFacts(kind=head.kind, target="labels", classes=names))
    picture = np.random.default_rng(0).integers(0, 255, (rows, 2048, 3), np.uint8)
    next(predictor.predict(picture[:600], windows=Windows(size=(512, 512), stride=(256, 256))))
    before = peak()
    next(predictor.predict(picture, windows=Windows(size=(512, 512), stride=(256, 256))))
    own = 16 * picture.size / 3 / 2**30
    return {"rows": rows, "gib": peak() - before, "picture_gib": own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--one", choices=["features", "scores", "train", "slide", "high"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        parts = {
            "train": lambda: train(args.pictures, args.steps),
            "slide": lambda: slide(1024),
            "high": lambda: slide(4096),
        }
        print(json.dumps(parts.get(args.one, lambda: classify(args.one))()))
        return
    shown = {}
    for part in ("features", "scores", "train", "slide", "high"):
        command = [
            sys.executable,
            __file__,
            "--one",
            part,
            "--pictures",
            str(args.pictures),
            "--steps",
            str(args.steps),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        shown[part] = json.loads(done.stdout.splitlines()[-1])
        print(part, shown[part], flush=True)
    print(f"enlarging features takes {shown['features']['gib'] / shown['scores']['gib']:.1f} times the memory")


if __name__ == "__main__":
    main()
