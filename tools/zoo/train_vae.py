"""Training of the autoencoder on crops, and encoding of the cached pictures.

Loss: mean absolute error of pixels, of their differences to the right and downward neighbour (edges), and of the
brightness and two opponent colours of 4×4 means (tones), plus 1e-6 times the divergence of the posterior from a unit
normal. The first three latent channels are held to the tones themselves: an encoder and a decoder that start from
nothing agree on brightness soon but on red-green hardly ever, and a latent that is a thumbnail is easy to denoise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from diffeat.training.loop import Loop, Schedule, Values
from tools.zoo import cache
from tools.zoo.build import CHANNELS
from tools.zoo.runs import Work, at_step, autocast, shared_gradients

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

CROP = 64


def tones(pixels: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h/4 w/4"]:
    """Brightness, red-green and blue-yellow of 4×4 means, scaled to similar spread."""
    red, green, blue = F.avg_pool2d(pixels, 4).unbind(1)
    return torch.stack([(red + green + blue) / 2, 2.5 * (red - green), 2 * (blue - (red + green) / 2)], 1)


def reconstruction_loss(output: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Tensor:
    """Absolute error of pixels, edges and tones, in units of the [-1, 1] range."""
    error = output - target
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + edges + 0.5 * tones(error).abs().mean()


@dataclass(frozen=True)
class VaeStage:
    """How the autoencoder is trained."""

    steps: int
    batch: int
    seed: int
    rate: float = 1.5e-3
    save_every: int = 200

    def share_at(self, number: int) -> float:
        """Linear warm-up, then a cosine that falls to a fiftieth."""
        fall = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * number / self.steps))
        return min(1, (number + 1) / 50) * fall


def train_vae(vae: AutoencoderKL, run: Path, pictures: Path, stage: VaeStage, work: Work) -> None:
    """Train on crops of cached pictures, going on with ``run``'s checkpoint when there is one."""
    device = work.device
    vae.to(device).train()  # type: ignore[arg-type]
    weights = list(vae.parameters())
    loop = Loop(
        run,
        Schedule(stage.steps, stage.save_every, share=stage.share_at, clip=1.0),
        {"optimiser": torch.optim.AdamW(weights, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.0)},
        {"model": vae},
        prefix="vae-",
    )
    store: list[np.ndarray] = []

    def loss_of(target: Tensor, noise: Tensor) -> Tensor:
        with autocast(device):
            posterior = vae.encode(target).latent_dist  # type: ignore[union-attr]
            output = vae.decode(posterior.mean + posterior.std * noise).sample  # type: ignore[union-attr]
        held = (posterior.mean[:, :3].float() - tones(target)).abs().mean()
        return reconstruction_loss(output.float(), target) + held + 1e-6 * posterior.kl().mean()

    def gradients(number: int) -> Values:
        if number % 50 == 0 or not store:
            store[:] = [cache.load(p) for p in cache.shards(pictures)]
        generator = at_step(stage.seed, number, "vae")
        target = crops(store, stage.batch, generator).to(device)
        side = target.shape[-1] // 4
        noise = torch.randn((stage.batch, CHANNELS, side, side), generator=generator).to(device)
        return {"loss": shared_gradients(work.pool, loss_of, (target, noise), weights)}

    loop.run(gradients, progress=work.progress, desc="vae")
    vae.eval()


def crops(store: list, batch: int, generator: torch.Generator) -> Float[Tensor, "b 3 c c"]:
    """Random square crops of random pictures, in [-1, 1], half of them mirrored."""
    taken = []
    for _ in range(batch):
        shard = store[int(torch.randint(len(store), (), generator=generator))]
        picture = shard[int(torch.randint(len(shard), (), generator=generator))]
        side = min(CROP, picture.shape[0])
        y, x = torch.randint(picture.shape[0] - side + 1, (2,), generator=generator).tolist()
        part = picture[y : y + side, x : x + side]
        taken.append(part[:, ::-1] if torch.rand((), generator=generator) < 0.5 else part)
    return torch.from_numpy(np.stack(taken)).permute(0, 3, 1, 2).float() / 127.5 - 1


def encode_all(vae: AutoencoderKL, run: Path, pictures: Path, work: Work) -> None:
    """Write the posterior of every cached picture: ``latents-###.npy`` float16 ``(n, 2, c, h, w)`` (mean, std)."""
    vae.to(work.device).eval()  # type: ignore[arg-type]
    for path in cache.shards(pictures):
        goal = run / path.name.replace("pictures", "latents")
        if goal.exists():
            continue
        shard = cache.load(path)

        def encode(k: int, shard: np.ndarray = shard) -> np.ndarray:
            pixels = torch.from_numpy(np.array(shard[k : k + 50])).permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.inference_mode(), autocast(work.device):
                posterior = vae.encode(pixels.to(work.device)).latent_dist  # type: ignore[union-attr]
            return torch.stack([posterior.mean, posterior.std], 1).half().cpu().numpy()

        rows = work.pool.map(encode, range(0, len(shard), 50), chunksize=1)
        with open(goal.with_suffix(".part"), "wb") as file:
            np.save(file, np.concatenate(rows))
        goal.with_suffix(".part").replace(goal)
        work.say(f"encoded {path.name}")


def settle_scale(vae: AutoencoderKL, run: Path) -> None:
    """Set the autoencoder's ``scaling_factor`` so that the latents have unit variance."""
    first = np.load(sorted(run.glob("latents-*.npy"))[0])[:2000].astype(np.float32)
    spread = math.sqrt(float(first[:, 0].var() + (first[:, 1] ** 2).mean()))
    vae.register_to_config(scaling_factor=round(1 / spread, 5))
