"""Maps of known properties, and the real UNets' layouts without weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from diffeat.activations import Catalogue
from diffeat.studies.selection.meter import Measured, Meter

SIDE, CHANNELS, IMAGES, DRAWS = 16, 48, 8, 4


def measured(maps: list[Tensor]) -> Measured:
    """Properties of maps (draws, C, h, w), one per picture."""
    meter = Meter(maps[0].shape[1], (maps[0].shape[2], maps[0].shape[3]))
    for values in maps:
        meter.add(values)
    return meter.result()


def made(
    noise: float = 0.0,
    position: float = 0.0,
    content=lambda x: x,
    noise_form=lambda x: x,
    seed: int = 0,
    images: int = IMAGES,
) -> list[Tensor]:
    """Maps whose variance is shared out as asked; ``noise`` is of what is not position."""
    generator = torch.Generator().manual_seed(seed)

    def field(*lead: int) -> Tensor:
        return torch.randn(*lead, CHANNELS, SIDE, SIDE, generator=generator)

    def unit(x: Tensor) -> Tensor:
        return x / x.std()

    place = unit(content(field(1)))
    rest = 1 - position
    return [
        math.sqrt(position) * place
        + math.sqrt(rest * (1 - noise)) * unit(content(field(1)))
        + math.sqrt(rest * noise) * unit(noise_form(field(DRAWS)))
        for _ in range(images)
    ]


def below(cycles: float):
    """Keeps the frequencies up to ``cycles`` per side."""

    def form(x: Tensor) -> Tensor:
        f = torch.fft.fftfreq(SIDE, 1 / SIDE)
        keep = torch.hypot(f[:, None], f[None, :]).round() <= cycles
        return torch.fft.ifft2(torch.fft.fft2(x) * keep).real

    return form


def blocks(x: Tensor) -> Tensor:
    """Constant over 4×4 cells."""
    return torch.nn.functional.avg_pool2d(x, 4).repeat_interleave(4, -1).repeat_interleave(4, -2)


def sd15() -> nn.Module:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            attention_head_dim=8,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        )


def sdxl() -> nn.Module:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            cross_attention_dim=2048,
            attention_head_dim=(5, 10, 20),  # type: ignore[arg-type]
            use_linear_projection=True,
            transformer_layers_per_block=(1, 2, 10),
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        )


@cache
def catalogue(build: Callable[[], nn.Module]) -> Catalogue:
    return Catalogue.of(build())
