"""Train a ControlNet on a folder of pictures with captions.

``python -m tools.zoo.train_controlnet --model tiny-unet --images DIR --out RUN --condition canny``

The ControlNet starts as a copy of the UNet's encoder with outputs of zero, and is trained to predict the same as the
UNet (Zhang et al. 2023); the UNet itself is frozen. A killed run goes on with ``--resume``. The result lies in
``RUN/controlnet``, an ordinary diffusers folder.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from diffeat.errors import InvalidValueError, did_you_mean
from diffeat.geometry.line_art import LINE_ART
from tools.zoo.runs import Log, at_step, load_state, run_command, save_state
from tools.zoo.technique_data import encode_folder, load_unet_pipeline, target_of


@dataclass(frozen=True)
class Settings:
    """All that decides the weights."""

    model: str = "tiny-unet"
    condition: str = "canny"
    size: int = 128
    steps: int = 1500
    batch: int = 8
    rate: float = 2e-4
    warmup: int = 50
    drop: float = 0.3
    limit: int | None = None
    seed: int = 0
    save_every: int = 100


def train_controlnet(
    settings: Settings, images: Path, run: Path, device: str = "cpu", resume: bool = False, seconds: float | None = None
) -> Path:
    """Train, and return the ControlNet's folder.

    Args:
        images: Folder of pictures with captions.
        run: Folder of the run.
        resume: Go on with the run's last checkpoint.
        seconds: Stop after so long with what there is.

    Raises:
        InvalidValueError: Unknown condition.
        DatasetError: No pictures, or no captions.
        ModelError: A model that it cannot be trained for.
    """
    from diffusers.models.controlnets.controlnet import ControlNetModel

    if settings.condition not in LINE_ART:
        raise InvalidValueError(
            f"No condition {settings.condition!r} to train with. {did_you_mean(settings.condition, LINE_ART)}"
        )
    run.mkdir(parents=True, exist_ok=True)
    pipeline = load_unet_pipeline(settings.model, device)
    data = encode_folder(pipeline, images, settings.size, settings.limit, LINE_ART[settings.condition])
    unet, scheduler = pipeline.unet, pipeline.scheduler
    torch.manual_seed(settings.seed)
    net: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=_widths(pipeline))
    net.to(device).train().requires_grad_(True)
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=1e-2)
    start, checkpoint = 0, run / "controlnet.pt"
    state = load_state(checkpoint) if resume else None
    if state is not None:
        net.load_state_dict(state["net"])
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    log, began = Log(run / "controlnet_loss.csv", ("step", "loss", "seconds"), start), time.monotonic()
    for step in range(start, settings.steps):
        generator = at_step(settings.seed, step, "controlnet")
        latents, texts, conditions = data.batch(settings.batch, settings.drop, generator)
        assert conditions is not None
        noise = torch.randn(latents.shape, generator=generator)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
        noisy, target = scheduler.add_noise(latents, noise, t), target_of(scheduler, latents, noise, t)
        noisy, target, t, texts, conditions = (x.to(device) for x in (noisy, target, t, texts, conditions))
        down, mid = net(noisy, t, texts, conditions, return_dict=False)
        found = unet(
            noisy, t, texts, down_block_additional_residuals=down, mid_block_additional_residual=mid, return_dict=False
        )[0]
        loss = F.mse_loss(found.float(), target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * min(1.0, (step + 1) / settings.warmup)
        optimiser.step()
        log.add(step, float(loss.detach()))
        last = step + 1 == settings.steps or (seconds is not None and time.monotonic() - began > seconds)
        if last or (step + 1) % settings.save_every == 0:
            save_state(checkpoint, {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1})
            print(f"step {step + 1}: loss {log.recent():.4f}, {time.monotonic() - began:.0f} s", flush=True)
            log.flush()
            net.save_pretrained(run / "controlnet")
        if last:
            break
    net.save_pretrained(run / "controlnet")
    return run / "controlnet"


def _widths(pipeline: Any) -> tuple[int, ...]:
    """Channels of the condition's embedding: one halving of the picture after each but the first."""
    halvings = int(math.log2(2 ** (len(pipeline.vae.config.block_out_channels) - 1)))
    most = max(16, pipeline.unet.config.block_out_channels[0])
    widths = [min(most, 16 * 2**k) for k in range(halvings + 1)]
    group = pipeline.unet.config.norm_num_groups or 1
    return tuple(max(w // group, 1) * group if w >= group else w for w in widths)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.zoo.train_controlnet", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures with captions")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", default=Settings.model)
    parser.add_argument("--condition", default=Settings.condition, choices=sorted(LINE_ART))
    parser.add_argument("--size", type=int, default=Settings.size)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--batch", type=int, default=Settings.batch)
    parser.add_argument("--rate", type=float, default=Settings.rate)
    parser.add_argument("--limit", type=int, help="at most so many pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop after so long with what there is")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    given = parser.parse_args(arguments)
    settings = Settings(
        given.model, given.condition, given.size, given.steps, given.batch, given.rate, limit=given.limit,
        seed=given.seed,
    )  # fmt: skip
    print(train_controlnet(settings, given.images, given.out, given.device, given.resume, given.seconds))


if __name__ == "__main__":
    run_command(main)
