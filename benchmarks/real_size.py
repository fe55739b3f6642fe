"""Real-size models with random weights: directory → ``from_pretrained`` → features of two activations.

    python benchmarks/real_size.py FOLDER [--only sd15:float32 …]

Every row runs in a fresh process; peak memory is the process's resident peak, weights included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

CASES = [
    ("sd15", "float32"),
    ("sd15", "bfloat16"),
    ("sdxl", "bfloat16"),
    ("pixart-sigma", "float32"),
    ("pixart-sigma", "bfloat16"),
    ("sd3-medium", "bfloat16"),
    ("flux-short", "bfloat16"),
]


def measure(model: str, dtype: str, path: str) -> dict:
    import torch
    from real_models import MODELS
    from skimage import data

    from diffeat import Extractor, Recipe

    activations = MODELS[model][1]
    recipe = Recipe.from_dict(
        {
            "model": path,
            "frame": {"mode": "squash", "size": 512},
            "trajectory": {"timesteps": [260], "latent": "mean"},
            "activations": activations,
        }
    )
    start = time.perf_counter()
    extractor = Extractor.from_recipe(recipe, device="cpu", dtype=getattr(torch, dtype))
    loaded = time.perf_counter()
    extractor.backbone.condition([""], size=(512, 512))
    conditioned = time.perf_counter()
    (features,) = extractor.extract([data.chelsea()])
    done = time.perf_counter()
    shapes = {k: tuple(v.shape) for k, v in features.activations.items()}
    assert list(shapes) == activations
    assert all(torch.isfinite(v).all() and v.float().std() > 0 for v in features.activations.values())
    return {
        "parameters": sum(p.numel() for p in extractor.backbone.denoiser.parameters()),
        "load_s": loaded - start,
        "text_s": conditioned - loaded,
        "extract_s": done - conditioned,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "shapes": shapes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="*", default=[f"{m}:{d}" for m, d in CASES])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    if args.write:
        import torch
        from real_models import write

        print(write(args.write[0], args.folder, getattr(torch, args.write[1])))
        return
    print("| model | parameters | dtype | load s | extract s (512 px) | peak GB | activations |")
    print("|---|---|---|---|---|---|---|")
    for case in args.only:
        model, dtype = case.split(":")
        call = [sys.executable, __file__, str(args.folder)]
        written = subprocess.run([*call, "--write", model, dtype], stdout=subprocess.PIPE, text=True, check=True)
        path = written.stdout.splitlines()[-1]
        out = subprocess.run([*call, "--measure", model, dtype, path], stdout=subprocess.PIPE, text=True, check=True)
        r = json.loads(out.stdout.splitlines()[-1])
        shapes = "; ".join(f"`{k}` {'×'.join(map(str, v))}" for k, v in r["shapes"].items())
        print(
            f"| {model} | {r['parameters'] / 1e6:.0f} M | {dtype} | {r['load_s']:.1f} | {r['extract_s']:.1f} "
            f"| {r['peak_gb']:.2f} | {shapes} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
