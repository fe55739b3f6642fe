"""What ten timesteps of a recipe of one draw cost when posteriors are kept, at real size with random weights.

    python benchmarks/sweep_cost.py FOLDER [--size 256] [--timesteps 10] [--pictures 1]

Each timestep is an extraction of its own, as in ``diffeat sweep``: first as they are, then with what was encoded
remembered on disk and in memory. CPU time; the features must be equal bit for bit.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--timesteps", type=int, default=10)
    parser.add_argument("--pictures", type=int, default=1)
    args = parser.parse_args()
    from real_models import write
    from skimage import data

    from diffeat import Extractor, Reading
    from diffeat.backbones import remembered

    torch.set_num_threads(1)
    recipe = Reading.load("gdf-sd15").replace(
        model=str(write("sd15", args.folder, torch.float32)), **{"frame.mode": "squash", "frame.size": args.size}
    )
    backbone = Extractor.from_recipe(recipe, device="cpu", dtype="float32").backbone
    backbone.condition([recipe.prompt], size=(args.size, args.size), **recipe.conditioning)
    pictures = [data.chelsea()[i:] for i in range(args.pictures)]
    steps = [50.0 + 90 * k for k in range(args.timesteps)]

    def run(t: float) -> list[torch.Tensor]:
        features = Extractor(recipe.replace(**{"trajectory.timesteps": [t]}), backbone).extract(pictures)
        return [m for feature in features for m in feature.activations.values()]

    run(steps[0])  # weights are read from disk
    seconds, results = [], []
    for keep in (False, True):
        with tempfile.TemporaryDirectory() as folder, remembered(folder) if keep else nullcontext():
            start = time.process_time()
            results.append([m for t in steps for m in run(t)])
            seconds.append(time.process_time() - start)
    same = all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    print(
        f"{args.timesteps} timesteps, {args.size} px: {seconds[0]:.1f} s CPU, {seconds[1]:.1f} s with posteriors kept: "
        f"×{seconds[0] / seconds[1]:.2f}; same bits: {same}; load {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
