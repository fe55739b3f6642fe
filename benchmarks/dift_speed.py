"""The DIFT recipe with 8 draws against the reference procedure, at real size with random weights.

    python benchmarks/dift_speed.py FOLDER [--size 512] [--model sd15]

The reference procedure repeats the image 8 times through the autoencoder, then through the UNet up to the block. Both
get the same posterior and diffusion noise, so the features must be equal. Each runs in a fresh process.
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

DRAWS = 8
TIMESTEP = 261
BLOCK = "up_blocks.1"


def _recipe(path: str, size: int):
    from diffeat import Recipe

    return Recipe.from_dict(
        {
            "model": path,
            "frame": {"mode": "squash", "size": size},
            "trajectory": {"timesteps": [TIMESTEP], "draws": DRAWS, "latent": "sample"},
            "activations": [BLOCK],
        }
    )


def _ours(path: str, size: int):
    from skimage import data

    from diffeat import Extractor

    extractor = Extractor.from_recipe(_recipe(path, size), device="cpu", dtype=torch.float32)
    extractor.backbone.condition([""], size=(size, size))
    image = data.chelsea()
    return lambda: extractor.extract([image])[0].tensor


class _Stop(Exception):
    pass


def _reference(path: str, size: int):
    """Plain diffusers, as the published script does it, but for the noise, which is given."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from PIL import Image
    from skimage import data

    from diffeat.geometry import pixel_digest
    from diffeat.trajectories import keyed_normal

    pipe = StableDiffusionPipeline.from_pretrained(path, local_files_only=True, dtype=torch.float32)
    scheduler = DDIMScheduler.from_pretrained(path, subfolder="scheduler")
    picture = Image.fromarray(data.chelsea())
    key = pixel_digest(picture)
    with torch.no_grad():
        prompt = pipe.encode_prompt("", "cpu", 1, False)[0].repeat(DRAWS, 1, 1)
    shape = (4, size // 8, size // 8)
    eps = torch.stack([keyed_normal(shape, seed=0, image=key, stream="posterior", draw=d) for d in range(DRAWS)])
    noise = torch.stack(
        [keyed_normal(shape, seed=0, image=key, stream="diffusion", timestep=TIMESTEP, draw=d) for d in range(DRAWS)]
    )

    @torch.no_grad()
    def run() -> torch.Tensor:
        import numpy as np

        array = np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC))
        image = (torch.from_numpy(array).permute(2, 0, 1).float() / 255 - 0.5) * 2
        posterior = pipe.vae.encode(image[None].repeat(DRAWS, 1, 1, 1)).latent_dist
        latents = (posterior.mean + posterior.std * eps) * pipe.vae.config.scaling_factor
        noisy = scheduler.add_noise(latents, noise, torch.tensor([TIMESTEP]))
        kept = []

        def hook(module, args, output):
            kept.append(output)
            raise _Stop

        handle = pipe.unet.get_submodule(BLOCK).register_forward_hook(hook)
        try:
            pipe.unet(noisy, torch.tensor(TIMESTEP), encoder_hidden_states=prompt)
        except _Stop:
            pass
        finally:
            handle.remove()
        return kept[0].mean(0)

    return run


def measure(which: str, path: str, size: int, out: str) -> dict:
    torch.set_num_threads(2)
    run = {"ours": _ours, "reference": _reference}[which](path, size)
    start, cpu = time.perf_counter(), time.process_time()
    features = run()
    result = {
        "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    torch.save(features, out)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--model", default="sd15", choices=["sd15", "sd21"])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        which, path, out = args.measure
        print(json.dumps(measure(which, path, args.size, out)))
        return
    from real_models import write

    path = write(args.model, args.folder, torch.float32)
    rows, features = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for which in ("reference", "ours"):
            out = f"{scratch}/{which}.pt"
            call = [sys.executable, __file__, str(args.folder), "--size", str(args.size)]
            call += ["--measure", which, str(path), out]
            done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
            rows[which] = json.loads(done.stdout.splitlines()[-1])
            features[which] = torch.load(out, weights_only=True)
    error = (features["ours"] - features["reference"]).abs().max() / features["reference"].abs().max()
    for which, r in rows.items():
        print(f"{which:10s} {r['wall_s']:7.1f} s wall  {r['cpu_s']:7.1f} s CPU  peak {r['peak_gb']:.2f} GB")
    print(f"relative max error {error:.1e}")
    print(f"speed-up ×{rows['reference']['wall_s'] / rows['ours']['wall_s']:.2f} (wall), "
          f"×{rows['reference']['cpu_s'] / rows['ours']['cpu_s']:.2f} (CPU); "
          f"peak memory ×{rows['ours']['peak_gb'] / rows['reference']['peak_gb']:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
