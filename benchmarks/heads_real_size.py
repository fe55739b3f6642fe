"""Stable Diffusion 1.5 at its real size with random weights: one training step of a dense head, and one prediction.

    python benchmarks/heads_real_size.py FOLDER [--tune none|lora|denoiser] [--dtype float32]

The recipe is gdf-sd15-ade20k with its own head (UPerNet, 512 channels, crops of 512²) and batch 2. FOLDER gets the
model once (about 4 GB). Peak memory is the process's resident peak, or the accelerator's, weights included.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from real_models import write

from diffeat.datasets import MaskDataset
from diffeat.datasets.labelled import MaskSample
from diffeat.extraction import Recipe, load_source
from diffeat.tasks.dense import DenseOptions
from diffeat.training import train_dense
from diffeat.training.log import read_log


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
        print(f"{float(rows[-1]['seconds']):.1f} s a step of {own['batch']} crops; {peak()}", flush=True)
        start = time.perf_counter()
        (prediction,) = outcome.predictor.predict(samples[0].image)
        print(f"{time.perf_counter() - start:.1f} s a prediction of {prediction.values.shape}; {peak()}")


if __name__ == "__main__":
    main()
