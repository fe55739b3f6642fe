"""Gaussian noise as a pure function of what it is for.

Every draw comes from its own generator, seeded by a hash of ``(seed, image key, stream, timestep, draw)``. The same
picture therefore meets the same noise in any batch, in any order and on any worker, and the noise of one draw says
nothing of another's. Numbers are drawn on the CPU in float32 whatever the device and precision of the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from diffeat.errors import InvalidValueError, shown

#: What the noise is for: the latent posterior of the autoencoder, or the diffusion process.
Stream = Literal["posterior", "diffusion"]


class Draw(NamedTuple):
    """What noise of a picture is for, as :func:`keyed_normal` is told it."""

    seed: int
    stream: Stream
    timestep: float = 0.0
    draw: int = 0


class NoiseSource(Protocol):
    """Gives standard normal numbers; :func:`keyed_normal` unless noise of one's own is wanted."""

    def __call__(
        self, shape: Sequence[int], *, seed: int, image: str, stream: Stream, timestep: float = 0.0, draw: int = 0
    ) -> Tensor:
        """A tensor of ``shape`` (one draw, without a batch axis)."""
        ...


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

    Example:
        >>> one = keyed_normal((4, 8, 8), seed=0, image="cat", stream="diffusion", timestep=261, draw=0)
        >>> same = keyed_normal((4, 8, 8), seed=0, image="cat", stream="diffusion", timestep=261, draw=0)
        >>> bool((one == same).all())
        True
    """
    key = f"{seed}|{image}|{stream}|{float(timestep):.6f}|{draw}".encode()
    state = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
    own = torch.Generator("cpu").manual_seed(state)
    return torch.randn(tuple(shape), generator=own, dtype=torch.float32, device="cpu")


def own_noise(noise: NoiseSource | Tensor | None, timesteps: Sequence[float], draws: int) -> NoiseSource | None:
    """The noise that a user gives, as a :class:`NoiseSource`.

    Args:
        noise: A function, or a tensor ``(c, h, w)`` for every row or ``(timesteps × draws, c, h, w)``, timesteps
            outermost, for each row of a picture: the noise of the diffusion process, the same for every picture.
        timesteps: Of the recipe.
        draws: Of the recipe.

    Raises:
        InvalidValueError: It is neither, or the tensor has another number of rows; when called, another shape than the
            latent, or no row for a timestep.

    Example:
        >>> noise = own_noise(torch.zeros(2, 4, 8, 8), timesteps=(261, 20), draws=1)
        >>> noise((4, 8, 8), seed=0, image="cat", stream="diffusion", timestep=20).sum()
        tensor(0.)
    """
    if noise is None:
        return None
    if not isinstance(noise, Tensor) and not callable(noise):
        raise InvalidValueError(f"Noise is a tensor or a function that gives one, not {shown(noise)}.")
    if isinstance(noise, Tensor):
        count = max(1, len(timesteps) * draws)
        if noise.ndim not in (3, 4) or (noise.ndim == 4 and len(noise) != count):
            raise InvalidValueError(
                f"Noise of shape {tuple(noise.shape)} does not fit {len(timesteps)} timesteps × {draws} draws: give "
                f"(c, h, w), or ({count}, c, h, w) with a row for each, timesteps outermost."
            )

    def given(
        shape: Sequence[int], *, seed: int, image: str, stream: Stream, timestep: float = 0.0, draw: int = 0
    ) -> Tensor:
        key: dict[str, Any] = {"seed": seed, "image": image, "stream": stream, "timestep": timestep, "draw": draw}
        if not isinstance(noise, Tensor):
            row = noise(shape, **key)
        elif stream == "posterior":
            return keyed_normal(shape, **key)
        elif noise.ndim == 3:
            row = noise
        elif timestep in timesteps:
            row = noise[list(timesteps).index(timestep) * draws + draw]
        else:
            raise InvalidValueError(
                f"Noise is wanted at timestep {timestep:g}, the noise given is for {list(timesteps)}. "
                "Give one of shape (c, h, w), or a function."
            )
        if not isinstance(row, Tensor) or row.shape != tuple(shape):
            what = f"of shape {tuple(row.shape)}" if isinstance(row, Tensor) else f"a {type(row).__name__}"
            raise InvalidValueError(f"The noise given is {what}, the picture's latent of shape {tuple(shape)}.")
        return row

    return given
