"""``diffeat convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.options import Force


def convert(
    file: Annotated[Path, Argument(help="A .pt file of guided-diffusion, unconditional.")],
    out: Annotated[Path, Option("--out", "-o", help="Folder of the pipeline; made if missing.")],
    size: Annotated[int, Option(min=8, help="Side of the images that it was trained on.")] = 256,
    head_channels: Annotated[int, Option(min=1, help="Its --num_head_channels.")] = 64,
    force: Force = False,
) -> None:
    """Make a stock pipeline of OpenAI's guided-diffusion weights (ADM), which recipes can name as their model.

    Only tensors are read from the file. DIFT's own is 256x256_diffusion_uncond.pt; `diffeat recipes` lists its presets.

    Example:
        diffeat convert 256x256_diffusion_uncond.pt --out adm
        diffeat extract photos --recipe dift-adm --model adm --out features
    """
    from diffeat.backbones.guided_diffusion import convert_guided_diffusion

    folder = convert_guided_diffusion(file, out, size=size, head_channels=head_channels, force=force)
    typer.echo(f"Pipeline: {folder}")
