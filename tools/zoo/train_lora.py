"""Train a LoRA on a folder of pictures with captions.

``python -m tools.zoo.train_lora --model tiny-unet --images DIR --out RUN --rank 8``

Low-rank adapters (PEFT) on the UNet's attention, optionally on its convolutions; the rest is frozen. Few pictures and
many steps overfit. A killed run goes on with ``--resume``. Every ``save_every`` steps a file
``RUN/lora-SSSSSS.safetensors`` is written, which any diffusers pipeline loads; choose among them with ``diffeat gate``.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from tools.zoo.runs import Log, at_step, load_state, run_command, save_state
from tools.zoo.technique_data import encode_folder, load_unet_pipeline, target_of

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_CONVOLUTIONS = ("conv1", "conv2", "conv_shortcut", "proj_in", "proj_out")


@dataclass(frozen=True)
class Settings:
    """All that decides the weights."""

    model: str = "tiny-unet"
    size: int = 128
    steps: int = 500
    batch: int = 8
    rate: float = 1e-4
    rank: int = 8
    alpha: int = 8
    convolutions: bool = False
    drop: float = 0.1
    limit: int | None = None
    seed: int = 0
    save_every: int = 100


def train_lora(
    settings: Settings, images: Path, run: Path, device: str = "cpu", resume: bool = False, seconds: float | None = None
) -> Path:
    """Train, and return the last LoRA file.

    Args:
        images: Folder of pictures with captions.
        run: Folder of the run.
        resume: Go on with the run's last checkpoint.
        seconds: Stop after so long with what there is.

    Raises:
        DatasetError: No pictures, or no captions.
        ModelError: A model that it cannot be trained for.
    """
    from peft import LoraConfig

    run.mkdir(parents=True, exist_ok=True)
    pipeline = load_unet_pipeline(settings.model, device)
    data = encode_folder(pipeline, images, settings.size, settings.limit, None)
    unet, scheduler = pipeline.unet, pipeline.scheduler
    torch.manual_seed(settings.seed)
    targets = [*_ATTENTION, *(_CONVOLUTIONS if settings.convolutions else ())]
    unet.add_adapter(
        LoraConfig(
            r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, init_lora_weights="gaussian"
        )
    )  # fmt: skip
    weights = {n: p for n, p in unet.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(weights.values(), lr=settings.rate, weight_decay=1e-2)
    start, checkpoint = 0, run / "lora.pt"
    state = load_state(checkpoint) if resume else None
    if state is not None:
        for name, value in state["weights"].items():
            weights[name].data.copy_(value)
        optimiser.load_state_dict(state["optimiser"])
        start = state["step"]
    file = run / f"lora-{start:06d}.safetensors"
    log, began = Log(run / "lora_loss.csv", ("step", "loss", "seconds"), start), time.monotonic()
    for step in range(start, settings.steps):
        generator = at_step(settings.seed, step, "lora")
        latents, texts, _ = data.batch(settings.batch, settings.drop, generator)
        noise = torch.randn(latents.shape, generator=generator)
        t = torch.randint(scheduler.config.num_train_timesteps, (len(latents),), generator=generator)
        noisy, target = scheduler.add_noise(latents, noise, t), target_of(scheduler, latents, noise, t)
        noisy, target, t, texts = (x.to(device) for x in (noisy, target, t, texts))
        loss = F.mse_loss(unet(noisy, t, texts, return_dict=False)[0].float(), target)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        log.add(step, float(loss.detach()))
        last = step + 1 == settings.steps or (seconds is not None and time.monotonic() - began > seconds)
        if last or (step + 1) % settings.save_every == 0:
            kept = {n: p.detach().cpu() for n, p in weights.items()}
            save_state(checkpoint, {"weights": kept, "optimiser": optimiser.state_dict(), "step": step + 1})
            file = _export(pipeline, run, step + 1)
            print(f"step {step + 1}: loss {log.recent():.4f}, {time.monotonic() - began:.0f} s", flush=True)
            log.flush()
        if last:
            break
    return file


def _export(pipeline: Any, run: Path, step: int) -> Path:
    from peft.utils.save_and_load import get_peft_model_state_dict

    name = f"lora-{step:06d}.safetensors"
    layers = get_peft_model_state_dict(pipeline.unet)
    adapter = pipeline.unet.peft_config["default"]
    pipeline.save_lora_weights(
        str(run), unet_lora_layers=layers, weight_name=name, unet_lora_adapter_metadata=adapter.to_dict()
    )
    return run / name


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.zoo.train_lora", description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder of pictures with captions")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("--model", default=Settings.model)
    parser.add_argument("--size", type=int, default=Settings.size)
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--batch", type=int, default=Settings.batch)
    parser.add_argument("--rate", type=float, default=Settings.rate)
    parser.add_argument("--rank", type=int, default=Settings.rank)
    parser.add_argument("--alpha", type=int, help="the rank by default")
    parser.add_argument("--convolutions", action="store_true", help="adapt convolutions too (LoCon)")
    parser.add_argument("--limit", type=int, help="at most so many pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="stop after so long with what there is")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    given = parser.parse_args(arguments)
    settings = Settings(
        given.model, given.size, given.steps, given.batch, given.rate, given.rank, given.alpha or given.rank,
        given.convolutions, limit=given.limit, seed=given.seed,
    )  # fmt: skip
    print(train_lora(settings, given.images, given.out, given.device, given.resume, given.seconds))


if __name__ == "__main__":
    run_command(main)
