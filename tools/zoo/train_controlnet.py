"""Train a ControlNet on a folder of pictures with captions.

``python -m tools.zoo.train_controlnet --model tiny-unet --images DIR --out RUN --condition canny``

The ControlNet starts as a copy of the UNet's encoder with outputs of zero, and is trained to predict the same as the
UNet (Zhang et al. 2023); the UNet itself is frozen. The same command goes on where a run was stopped. The result lies
in ``RUN/controlnet``, an ordinary diffusers folder.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from diffeat.errors import InvalidValueError, did_you_mean
from diffeat.geometry.line_art import LINE_ART
from diffeat.progress import Progress, bar, silent
from diffeat.training.loop import Loop, Schedule, Values
from tools.zoo.runs import at_step, run_command
from tools.zoo.technique_data import encode_folder, load_unet_pipeline, noised


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
    settings: Settings,
    images: Path,
    run: Path,
    device: str = "cpu",
    seconds: float | None = None,
    progress: Progress = silent,
) -> Path:
    """Train, or go on where an earlier run stopped, and return the ControlNet's folder.

    Args:
        images: Folder of pictures with captions.
        run: Folder of the run.
        seconds: Stop after so long with what there is.

    Raises:
        InvalidValueError: Unknown condition, or ``run`` holds a run of other settings.
        DatasetError: No pictures, or no captions.
        ModelError: A model that it cannot be trained for.
    """
    from diffusers.models.controlnets.controlnet import ControlNetModel

    if settings.condition not in LINE_ART:
        raise InvalidValueError(
            f"No condition {settings.condition!r} to train with. {did_you_mean(settings.condition, LINE_ART)}"
        )
    pipeline = load_unet_pipeline(settings.model, device)
    data = encode_folder(pipeline, images, settings.size, settings.limit, LINE_ART[settings.condition])
    unet = pipeline.unet
    torch.manual_seed(settings.seed)
    net: Any = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=_widths(pipeline))
    net.to(device).train().requires_grad_(True)
    loop = Loop(
        run,
        Schedule(
            settings.steps, settings.save_every, clip=1.0, seconds=seconds,
            share=lambda number: min(1.0, (number + 1) / settings.warmup),
        ),
        {"optimiser": torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=1e-2)},
        {"net": net},
        {name: value for name, value in asdict(settings).items() if name != "steps"},
    )  # fmt: skip

    def gradients(number: int) -> Values:
        generator = at_step(settings.seed, number, "controlnet")
        batch = noised(data, pipeline.scheduler, settings.batch, settings.drop, generator, device)
        down, mid = net(batch.latents, batch.t, batch.texts, batch.conditions, return_dict=False)
        guess = unet(
            batch.latents, batch.t, batch.texts, down_block_additional_residuals=down,
            mid_block_additional_residual=mid, return_dict=False,
        )[0]  # fmt: skip
        loss = F.mse_loss(guess.float(), batch.target)
        loss.backward()
        return {"loss": float(loss.detach())}

    loop.run(gradients, keep=lambda: net.save_pretrained(run / "controlnet"), progress=progress, desc="ControlNet")
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
    given = parser.parse_args(arguments)
    settings = Settings(
        given.model, given.condition, given.size, given.steps, given.batch, given.rate, limit=given.limit,
        seed=given.seed,
    )  # fmt: skip
    print(train_controlnet(settings, given.images, given.out, given.device, given.seconds, bar))


if __name__ == "__main__":
    run_command(main)
