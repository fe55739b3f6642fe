"""What measuring all properties costs over the bare forward passes.

    python benchmarks/selection_properties.py FOLDER [--model sd15] [--size 256] [--pictures 4] [--draws 4]

A model of real size with random weights is written to FOLDER once. The bare passes run the same calls without taps.
Time is that of the CPU, which other work on the machine hardly changes. Memory is the process's resident peak above
what it holds after loading the model.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from real_models import MODELS

from diffeat.activations import Catalogue
from diffeat.backbones import Backbone
from diffeat.geometry import FrameSpec
from diffeat.studies.selection.properties import measurable, measure
from diffeat.trajectories import forward_rows, noisy_latents


def resident() -> float:
    """Peak so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def bare(backbone: Backbone, pictures: list[Image.Image], size: int, draws: int) -> float:
    """CPU seconds of the same denoiser calls with nothing read."""
    rows = forward_rows([261], draws, noisy=True)
    start = time.process_time()
    with torch.no_grad():
        for k, picture in enumerate(pictures):
            pixels = FrameSpec(mode="squash", size=size).frame(picture.size).pixels(picture)
            posterior = backbone.encode_images(pixels[None])
            noisy = noisy_latents(backbone, posterior, rows, image=str(k), seed=0, sample_posterior=False)
            conditions = backbone.condition([""], size=(size, size)).take([0] * draws)
            backbone.denoiser(**backbone.denoiser_inputs(noisy, 261, conditions))
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="sd15")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--draws", type=int, default=4)
    options = parser.parse_args()
    path = options.folder / options.model
    if not path.exists():
        MODELS[options.model][0](torch.float32).save_pretrained(path)
    backbone = Backbone.from_pretrained(str(path))
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)).resize(
            (options.size,) * 2, Image.Resampling.BICUBIC
        )
        for _ in range(options.pictures)
    ]
    total = len(measurable(Catalogue.of(backbone, size=(options.size, options.size)))[0])
    bare(backbone, pictures[:1], options.size, options.draws)  # warm up
    held = resident()
    forward = bare(backbone, pictures, options.size, options.draws)
    after_bare = resident()
    start = time.process_time()
    measure(backbone, pictures, timestep=261, draws=options.draws, size=options.size)
    whole = time.process_time() - start
    print(
        json.dumps(
            {
                "model": options.model, "size": options.size, "pictures": options.pictures, "draws": options.draws,
                "threads": torch.get_num_threads(), "activations": total, "bare_s": round(forward, 2),
                "measured_s": round(whole, 2), "overhead": round(whole / forward - 1, 3),
                "bare_above_model_gb": round(after_bare - held, 2), "above_model_gb": round(resident() - held, 2),
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
