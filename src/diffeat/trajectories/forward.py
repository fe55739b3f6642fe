"""The forward process: one row of a denoiser call for every (timestep, draw) of a picture.

A trajectory ``noise`` reads at x_t, the latent noised to timestep t (the backbone knows how, see
``Backbone.noise``), ``draws`` times with independent noise. A trajectory ``clean`` gives the denoiser the latent
without any noise and only *tells* it the timestep, as models fine-tuned for clean features expect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffeat.backbones import Backbone, LatentPosterior
from diffeat.trajectories.noise import NoiseSource, keyed_normal


@dataclass(frozen=True)
class Row:
    """One row of a denoiser call: which timestep (0…1000) and which draw, noised or not."""

    timestep: float
    draw: int
    noisy: bool


def forward_rows(timesteps: Sequence[float], draws: int, noisy: bool) -> list[Row]:
    """All rows of one picture, timesteps outermost."""
    return [Row(float(t), d, noisy) for t in timesteps for d in range(draws)]


def noisy_latents(
    backbone: Backbone,
    posterior: LatentPosterior,
    rows: Sequence[Row],
    *,
    image: str,
    seed: int,
    sample_posterior: bool,
    noise: NoiseSource | None = None,
) -> Tensor:
    """The latents that the denoiser reads for ``rows`` of one picture.

    Args:
        posterior: Latent posterior of this one picture, shape ``(1, c, h, w)``.
        rows: Rows to build.
        image: Key of the picture, for its noise.
        seed: Seed of the recipe.
        sample_posterior: Draw from the posterior (a new draw for each ``row.draw``) or take its mean.
        noise: Where noise comes from; :func:`keyed_normal` if not given.

    Returns:
        ``(len(rows), c, h, w)``.
    """
    shape, noise = posterior.mean.shape[1:], noise or keyed_normal
    like = posterior.mean
    latents = []
    for row in rows:
        latent = posterior.mean
        if sample_posterior:
            eps = noise(shape, seed=seed, image=image, stream="posterior", draw=row.draw)
            latent = posterior.sample(eps[None].to(like))
        if row.noisy:
            eps = noise(shape, seed=seed, image=image, stream="diffusion", timestep=row.timestep, draw=row.draw)
            latent = backbone.noise(latent, row.timestep, eps[None].to(like))
        latents.append(latent)
    return torch.cat(latents)
