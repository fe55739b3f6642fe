"""The forward process: one row of a denoiser call for every (timestep, draw) of a picture.

A trajectory ``noise`` reads at x_t, the latent noised to timestep t (the backbone knows how, see
``Backbone.noise``), ``draws`` times with independent noise. A trajectory ``clean`` gives the denoiser the latent
without any noise and only *tells* it the timestep, as models fine-tuned for clean features expect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffeat.backbones import Backbone, LatentPosterior
from diffeat.memory import moved
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
    image: str | Sequence[str],
    seed: int | Sequence[int],
    sample_posterior: bool | Sequence[bool],
    noise: NoiseSource | None = None,
) -> Tensor:
    """The latents that the denoiser reads for ``rows``: all noise is drawn, then brought to the device at once.

    Args:
        posterior: Latent posterior of one picture, shape ``(1, c, h, w)``, or of the picture of each row.
        rows: Rows to build.
        image: Key of the picture, for its noise; one, or one for each row, as ``seed`` and ``sample_posterior``.
        seed: Seed of the recipe.
        sample_posterior: Draw from the posterior (a new draw for each ``row.draw``) or take its mean.
        noise: Where noise comes from; :func:`keyed_normal` if not given.

    Returns:
        ``(len(rows), c, h, w)``.
    """
    draw = noise or keyed_normal
    images = [image] * len(rows) if isinstance(image, str) else image
    seeds = [seed] * len(rows) if isinstance(seed, int) else seed
    samples = [sample_posterior] * len(rows) if isinstance(sample_posterior, bool) else sample_posterior
    shape, like = posterior.mean.shape[1:], posterior.mean

    def drawn(wanted: Sequence[bool], eps: Callable[[int], Tensor]) -> Tensor:
        """Of the rows that want none, zeros."""
        each = [eps(k) if wants else torch.zeros(shape) for k, wants in enumerate(wanted)]
        return moved(torch.stack(each), like.device).to(like.dtype)

    latents = like.expand(len(rows), *shape)
    if any(samples):
        eps = drawn(
            samples, lambda k: draw(shape, seed=seeds[k], image=images[k], stream="posterior", draw=rows[k].draw)
        )
        latents = _where(samples, posterior.sample(eps), latents)
    noisy = [row.noisy for row in rows]
    if any(noisy):
        times = [row.timestep for row in rows]
        eps = drawn(
            noisy,
            lambda k: draw(
                shape, seed=seeds[k], image=images[k], stream="diffusion", timestep=times[k], draw=rows[k].draw
            ),
        )
        known = next(t for t, of_row in zip(times, noisy, strict=True) if of_row)  # a clean row's own may be none
        at = torch.tensor([t if of_row else known for t, of_row in zip(times, noisy, strict=True)])
        latents = _where(noisy, backbone.noise(latents, at, eps), latents)
    return latents


def _where(rows: Sequence[bool], one: Tensor, other: Tensor) -> Tensor:
    """Rows of ``one`` where it is said so."""
    if all(rows):
        return one
    chosen = torch.tensor(rows).reshape(-1, *[1] * (one.ndim - 1))
    return torch.where(moved(chosen, one.device), one, other)
