"""How well the embedded model's features find the same keypoint on another instance of a class.

Held-out toy-world pairs; PCK@0.1 of the target box's longer side; for every keypoint of the source picture the most
similar pixel (cosine) of the target picture, at full picture resolution after bilinear upsampling. The features are
block outputs of one denoising step, the clean latent's mean noised at a timestep, averaged over draws. Beside them: raw
colour patches, and the same architecture with random weights.

    python benchmarks/zoo_features.py --pairs 200 --json results.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffeat import zoo
from diffeat.datasets.toyworld import ToyPair, Toyworld

BLOCKS = ("mid_block", "up_blocks.0", "up_blocks.1", "up_blocks.2", "up_blocks.3")
HELD_OUT = 1  # a world seed that training never saw


def load(folder: Path, random_weights: bool = False):
    """The pipeline, or one of the same shape whose U-Net and text encoder have fresh weights."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    if random_weights:
        torch.manual_seed(0)
        pipeline.unet = UNet2DConditionModel.from_config(pipeline.unet.config)
    pipeline.unet.eval()
    return pipeline


@torch.inference_mode()
def block_features(pipeline, pixels: Tensor, t: int, draws: int = 4) -> dict[str, Tensor]:
    """Outputs of :data:`BLOCKS` ``(B, C, h, w)`` for pixels in [-1, 1], empty prompt, mean of ``draws``."""
    unet, kept = pipeline.unet, {}

    def keep(name: str) -> Callable:
        def hook(_module, _inputs, output) -> None:
            kept[name] = kept.get(name, 0) + output / draws

        return hook

    handles = [unet.get_submodule(name).register_forward_hook(keep(name)) for name in BLOCKS]
    latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
    ids = pipeline.tokenizer([""], padding="max_length", return_tensors="pt").input_ids
    words = pipeline.text_encoder(ids)[0].expand(len(pixels), -1, -1)
    a = pipeline.scheduler.alphas_cumprod[t]
    try:
        for draw in range(draws):
            eps = torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(draw))
            unet(a.sqrt() * latents + (1 - a).sqrt() * eps, t, words)
    finally:
        for handle in handles:
            handle.remove()
    return kept


def patches(pixels: Tensor, side: int) -> Tensor:
    """Raw colour patches ``(B, 3·side², H, W)``, reflected at the border."""
    padded = F.pad(pixels, [side // 2] * 4, mode="reflect")
    return F.unfold(padded, side).unflatten(-1, pixels.shape[-2:])


def correct(source: Tensor, target: Tensor, pair: ToyPair) -> list[bool]:
    """Which common keypoints the nearest neighbour finds, from features ``(C, h, w)`` of both pictures."""
    size = pair.source.image.shape[0]
    maps = [
        F.normalize(F.interpolate(f[None].float(), size=(size, size), mode="bilinear", align_corners=False)[0], dim=0)
        for f in (source, target)
    ]
    here, there = pair.matches()
    at = np.floor(here + 0.5).astype(int).clip(0, size - 1)
    best = (maps[0][:, at[:, 1], at[:, 0]].T @ maps[1].flatten(1)).argmax(1).numpy()
    found = np.stack([best % size, best // size], 1)
    left, top, right, bottom = pair.target.box
    radius = 0.1 * max(right - left, bottom - top)
    return list(np.hypot(*(found - there).T) <= radius)


def score(features: Callable[[Tensor], dict[str, Tensor]], pairs: list[ToyPair], batch: int = 16) -> dict[str, float]:
    """PCK in percent (mean over keypoints) by the name of the feature."""
    hits: dict[str, list[bool]] = {}
    for k in range(0, len(pairs), batch):
        some = pairs[k : k + batch]
        images = [p.source.image for p in some] + [p.target.image for p in some]
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
        for name, maps in features(pixels).items():
            for row, pair in enumerate(some):
                hits.setdefault(name, []).extend(correct(maps[row], maps[row + len(some)], pair))
    return {name: round(100 * float(np.mean(h)), 1) for name, h in hits.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=zoo.path("tiny-unet"))
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    world = Toyworld(HELD_OUT)
    pairs = [world.pair(k) for k in range(given.pairs)]
    results = {"patches": score(lambda x: {f"rgb {n}x{n}": patches(x, n) for n in (5, 9)}, pairs)}
    for label, random_weights in (("trained", False), ("random", True)):
        pipeline = load(given.model, random_weights)
        for t in (20, 100, 261):
            results[f"{label} t={t}"] = score(lambda x, p=pipeline, t=t: block_features(p, x, t), pairs)
            print(f"{label} t={t}", results[f"{label} t={t}"], flush=True)
    print("patches", results["patches"])
    if given.json:
        given.json.write_text(json.dumps({"pairs": given.pairs, "pck@0.1": results}, indent=2))


if __name__ == "__main__":
    main()
