"""Small parts that dense networks are made of."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def convolved(inside: int, outside: int, kernel: int) -> nn.Sequential:
    """A convolution without bias, batch norm, ReLU."""
    convolution = nn.Conv2d(inside, outside, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())


def enlarged(values: Float[Tensor, "b c h w"], grid: tuple[int, int]) -> Float[Tensor, "b c h2 w2"]:
    """Bilinear, half-pixel centres."""
    if values.shape[-2:] == grid:
        return values
    return F.interpolate(values, size=grid, mode="bilinear", align_corners=False)


class Residual(nn.Module):
    """Two 3×3 convolutions with batch norm beside the identity, which it starts as."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        second = nn.BatchNorm2d(channels)
        nn.init.zeros_(second.weight)
        self.branch = nn.Sequential(
            *convolved(channels, channels, 3), nn.Conv2d(channels, channels, 3, padding=1, bias=False), second
        )

    def forward(self, values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return values + self.branch(values)


class Constant(nn.Module):
    """A learned number for each channel, from 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, values: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return values + self.bias[:, None, None]


#: By the name in the options.
BLOCKS: dict[str, type[nn.Module]] = {"none": nn.Identity, "constant": Constant, "residual": Residual}
