"""Several views of each picture: planned together, against one by one with the stock diffusers parts.

Both give the same numbers (checked). Times are CPU seconds of this process, on one thread, so that other work on the
machine counts little:  python benchmarks/views_speed.py --images 8
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from PIL import Image

from diffeat.backbones import Backbone
from diffeat.extraction import Recipe
from diffeat.extraction.views import Views
from diffeat.geometry import pixel_digest
from diffeat.geometry.line_art import canny
from diffeat.techniques import ControlNet, LoRA
from diffeat.trajectories import keyed_normal

ACTIVATIONS = ("up_blocks.1", "up_blocks.2")
TEXTS = ("a photo of a horse", "a photo of a horse, high quality, highly realistic")
T = 100


def make_techniques(pipeline: Any, folder: Path) -> tuple[str, str]:
    """A ControlNet and a LoRA with random weights."""
    from diffusers import ControlNetModel
    from peft import LoraConfig
    from peft.utils.save_and_load import get_peft_model_state_dict

    torch.manual_seed(0)
    halvings = len(pipeline.vae.config.block_out_channels) - 1
    net = ControlNetModel.from_unet(pipeline.unet, conditioning_embedding_out_channels=(16,) * (halvings + 1))
    for p in net.parameters():
        p.data += 0.02 * torch.randn_like(p)
    net.save_pretrained(folder / "controlnet")
    pipeline.unet.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    pipeline.save_lora_weights(str(folder), unet_lora_layers=get_peft_model_state_dict(pipeline.unet))
    pipeline.unload_lora_weights()
    return str(folder / "controlnet"), str(folder / "pytorch_lora_weights.safetensors")


def view_recipes(model: str, control: str, lora: str, size: int) -> list[Recipe]:
    """Eight views: two texts, two seeds, a ControlNet, a LoRA, and both."""
    base = Recipe.from_dict(
        {
            "model": model,
            "prompt": TEXTS[0],
            "frame": {"mode": "squash", "size": size},
            "trajectory": {"timesteps": [T], "latent": "mean"},
            "activations": ACTIVATIONS,
        }
    )
    net, adapter = ControlNet(model=control).model_dump(), LoRA(path=lora).model_dump()
    changes: list[dict[str, Any]] = [
        {}, {"seed": 1}, {"prompt": TEXTS[1]}, {"prompt": TEXTS[1], "seed": 1}, {"techniques": [net]},
        {"techniques": [net], "seed": 1}, {"techniques": [adapter]}, {"techniques": [net, adapter]},
    ]  # fmt: skip
    return [base.replace(**c) for c in changes]


def keep(maps: dict[str, torch.Tensor], name: str, _module: Any, _inputs: Any, output: torch.Tensor) -> None:
    maps[name] = output


@torch.no_grad()
def one_by_one(pipeline: Any, control: str, lora: str, recipes: list[Recipe], images: list[Image.Image]) -> list[Any]:
    """What one writes with diffusers: every view of every picture on its own, the whole forward pass with hooks."""
    from diffusers import ControlNetModel

    net = ControlNetModel.from_pretrained(control)
    found: list[Any] = [[] for _ in images]
    for recipe in recipes:
        kinds = {t.kind for t in recipe.techniques or ()}
        if "lora" in kinds:
            pipeline.load_lora_weights(lora)
        for i, image in enumerate(images):
            maps: dict[str, torch.Tensor] = {}
            handles = [
                pipeline.unet.get_submodule(a).register_forward_hook(partial(keep, maps, a)) for a in ACTIVATIONS
            ]
            embeds, _ = pipeline.encode_prompt(recipe.prompt, "cpu", 1, False)
            pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            latents = pipeline.vae.encode(pixels).latent_dist.mean * pipeline.vae.config.scaling_factor
            eps = keyed_normal(
                latents.shape[1:], seed=recipe.seed, image=pixel_digest(image), stream="diffusion", timestep=T
            )
            noisy = pipeline.scheduler.add_noise(latents, eps[None], torch.tensor([T]))
            extra: dict[str, Any] = {}
            if "controlnet" in kinds:
                edges = torch.from_numpy(canny(np.asarray(image)))[None, None].expand(1, 3, -1, -1)
                down, mid = net(noisy, T, embeds, edges, return_dict=False)
                extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
            pipeline.unet(noisy, T, embeds, **extra)
            for handle in handles:
                handle.remove()
            found[i].append(maps)
        if "lora" in kinds:
            pipeline.unload_lora_weights()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-unet")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    diffusers.utils.logging.set_verbosity_error()
    backbone = Backbone.from_pretrained(given.model)
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).resize((given.size, given.size), 3)
        for _ in range(given.images)
    ]
    with tempfile.TemporaryDirectory() as folder:
        control, lora = make_techniques(backbone.pipeline, Path(folder))
        recipes = view_recipes(given.model, control, lora, given.size)
        plan = Views(recipes, backbone)
        times: dict[str, list[float]] = {"one by one": [], "planned": []}
        for _ in range(given.repeats):
            start = time.process_time()
            apart = one_by_one(backbone.pipeline, control, lora, recipes, images)
            times["one by one"].append(time.process_time() - start)
            start = time.process_time()
            together = plan.extract(images)
            times["planned"].append(time.process_time() - start)
    worst = max(
        float((t[a] - s[a][0]).abs().max() / s[a].abs().max())
        for stock, planned in zip(apart, together, strict=True)
        for s, t in zip(stock, planned, strict=True)
        for a in ACTIVATIONS
    )
    best = {name: min(values) for name, values in times.items()}
    for name, seconds in best.items():
        print(f"{name:>11}: {1000 * seconds / given.images:7.1f} ms per picture ({len(recipes)} views)")
    print(f"{best['one by one'] / best['planned']:.2f} times as fast; largest relative difference {worst:.1e}")
    print(plan.cost(given.images))


if __name__ == "__main__":
    main()
