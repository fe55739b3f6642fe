"""Stable Diffusion 1.5 at its real size with random weights: one training step of a dense head, and one prediction.

    python benchmarks/heads_real_size.py FOLDER [--tune none|lora|denoiser] [--dtype float32]

The recipe is gdf-sd15-ade20k with its own head (UPerNet, 512 channels, crops of 512²) and batch 2. FOLDER gets the
model once (about 4 GB). Peak memory is the process's resident peak, or the accelerator's, weights included. What is
measured is multiplied by the steps of the paper, and by ADE20K's validation pictures: the hours that a training takes
on this machine. ``--steps 20`` or so tells an accelerator's step without its start.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from real_models import write

from diffeat.datasets import MaskDataset
from diffeat.datasets.labelled import MaskSample
from diffeat.extraction import Recipe, load_source
from diffeat.tasks.dense import DenseOptions
from diffeat.training import train_dense
from diffeat.training.loop import read_log

VALIDATION = 2000


def peak() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB of the accelerator"
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tune", choices=["none", "lora", "denoiser"], default="none")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--steps", type=int, default=1)
    args = parser.parse_args()
    model = next(args.folder.glob("**/model_index.json"), None)
    path = model.parent if model else Path(write("sd15", args.folder, torch.float32))
    recipe = Recipe.load("gdf-sd15-ade20k").replace(model=str(path))
    source = load_source(recipe, dtype=args.dtype)
    print(f"loaded: {peak()}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder, samples = Path(name), []
        for k in range(2):
            rng = np.random.default_rng(k)
            Image.fromarray(rng.integers(0, 255, (512, 683, 3), np.uint8)).save(folder / f"{k}.jpg")
            mask = rng.integers(0, 150, (8, 11), np.uint8).repeat(64, 0).repeat(64, 1)[:512, :683]
            Image.fromarray(mask).save(folder / f"{k}.png")
            samples.append(MaskSample(folder / f"{k}.jpg", folder / f"{k}.png"))
        data = MaskDataset("random", "", tuple(samples), tuple(map(str, range(150))))
        own = recipe.tasks["dense"] | {"steps": args.steps, "every": args.steps, "tune": args.tune}
        if args.tune != "none":
            del own["variants"]
        outcome = train_dense(source, data, folder / "run", DenseOptions(**own))
        rows = read_log(folder / "run" / "training" / "log.csv")
        step = median(float(row["seconds"]) for row in rows)
        print(f"{step:.2f} s a step of {own['batch']} crops; {peak()}", flush=True)
        start = time.perf_counter()
        (prediction,) = outcome.predictor.predict(samples[0].image)
        whole = time.perf_counter() - start
        print(f"{whole:.2f} s a prediction of {prediction.values.shape}; {peak()}")
        steps = recipe.tasks["dense"]["steps"]
        hours, validation = step * steps / 3600, whole * VALIDATION / 3600
        print(f"ADE20K here: {hours:.1f} hours for {steps:,} steps; {validation:.1f} for {VALIDATION:,} pictures")


if __name__ == "__main__":
    main()
