"""Gaussian noise as a pure function of what it is for.

Every draw comes from its own generator, seeded by a hash of ``(seed, image key, stream, timestep, draw)``. The same
picture therefore meets the same noise in any batch, in any order and on any worker, and the noise of one draw says
nothing of another's. Numbers are drawn on the CPU in float32 whatever the device and precision of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

#: What the noise is for: the latent posterior of the autoencoder, or the diffusion process.
Stream = Literal["posterior", "diffusion"]


def keyed_normal(
    shape: Sequence[int], *, seed: int, image: str, stream: Stream, timestep: float = 0.0, draw: int = 0
) -> Tensor:
    """Standard normal numbers that depend on the arguments alone.

    Args:
        shape: Shape of one draw, without a batch axis.
        seed: The seed of the recipe.
        image: Key of the picture (its pixel digest).
        stream: What the noise is for.
        timestep: Timestep in 0…1000; 0 for the posterior, which is drawn once for all timesteps.
        draw: Number of the draw, from 0.

    Returns:
        A float32 tensor of ``shape`` on the CPU.
    """
    key = f"{seed}|{image}|{stream}|{float(timestep):.6f}|{draw}".encode()
    state = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(state))
