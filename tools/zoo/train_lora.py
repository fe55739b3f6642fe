"""Train a LoRA on a folder of pictures with captions.

``python -m tools.zoo.train_lora --model tiny-unet --images DIR --out RUN --rank 8``

Low-rank adapters (PEFT) on the UNet's attention, optionally on its convolutions; the rest is frozen. Few pictures and
many steps overfit. The same command goes on where a run was stopped. Every ``save_every`` steps a file
``RUN/lora-SSSSSS.safetensors`` is written, which any diffusers pipeline loads; choose among them with ``diffeat gate``.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from diffeat.progress import Progress, bar, silent
from diffeat.training.checkpoint import Tensors
from diffeat.training.loop import Loop, Schedule, Values
from tools.zoo.runs import at_step, run_command
from tools.zoo.technique_data import encode_folder, load_unet_pipeline, noised

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
    settings: Settings,
    images: Path,
    run: Path,
    device: str = "cpu",
    seconds: float | None = None,
    progress: Progress = silent,
) -> Path:
    """Train, or go on where an earlier run stopped, and return the last LoRA file.

    Args:
        images: Folder of pictures with captions.
        run: Folder of the run.
        seconds: Stop after so long with what there is.

    Raises:
        DatasetError: No pictures, or no captions.
        InvalidValueError: ``run`` holds a run of other settings.
        ModelError: A model that it cannot be trained for.
    """
    from peft import LoraConfig

    pipeline = load_unet_pipeline(settings.model, device)
    data = encode_folder(pipeline, images, settings.size, settings.limit, None)
    unet = pipeline.unet
    torch.manual_seed(settings.seed)
    targets = [*_ATTENTION, *(_CONVOLUTIONS if settings.convolutions else ())]
    unet.add_adapter(
        LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=targets, init_lora_weights="gaussian")
    )
    weights = {n: p for n, p in unet.named_parameters() if p.requires_grad}
    loop = Loop(
        run,
        Schedule(settings.steps, settings.save_every, seconds=seconds),
        {"optimiser": torch.optim.AdamW(weights.values(), lr=settings.rate, weight_decay=1e-2)},
        {"weights": Tensors(weights)},
        {name: value for name, value in asdict(settings).items() if name != "steps"},
    )

    def gradients(number: int) -> Values:
        generator = at_step(settings.seed, number, "lora")
        batch = noised(data, pipeline.scheduler, settings.batch, settings.drop, generator, device)
        guess = unet(batch.latents, batch.t, batch.texts, return_dict=False)[0]
        loss = F.mse_loss(guess.float(), batch.target)
        loss.backward()
        return {"loss": float(loss.detach())}

    loop.run(gradients, keep=lambda: _export(pipeline, run, loop.step), progress=progress, desc="LoRA")
    return _file(run, loop.step)


def _file(run: Path, step: int) -> Path:
    return run / f"lora-{step:06d}.safetensors"


def _export(pipeline: Any, run: Path, step: int) -> None:
    from peft.utils.save_and_load import get_peft_model_state_dict

    layers = get_peft_model_state_dict(pipeline.unet)
    adapter = pipeline.unet.peft_config["default"]
    pipeline.save_lora_weights(
        str(run), unet_lora_layers=layers, weight_name=_file(run, step).name,
        unet_lora_adapter_metadata=adapter.to_dict(),
    )  # fmt: skip


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
    given = parser.parse_args(arguments)
    settings = Settings(
        given.model, given.size, given.steps, given.batch, given.rate, given.rank, given.alpha or given.rank,
        given.convolutions, limit=given.limit, seed=given.seed,
    )  # fmt: skip
    print(train_lora(settings, given.images, given.out, given.device, given.seconds, bar))


if __name__ == "__main__":
    run_command(main)
