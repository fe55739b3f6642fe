"""The forward process: one row of a denoiser call for every (timestep, draw) of a picture.

A trajectory ``noise`` reads at x_t, the latent noised to timestep t (the backbone knows how, see
``Backbone.noise``), ``draws`` times with independent noise. A trajectory ``clean`` gives the denoiser the latent
without any noise and only *tells* it the timestep, as models fine-tuned for clean features expect.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffeat.backbones import Backbone, LatentPosterior
from diffeat.memory import moved
from diffeat.trajectories.noise import Draw, NoiseSource, keyed_normal


@dataclass(frozen=True)
class Row:
    """One row of a denoiser call: which timestep (0…1000) and which draw, noised or not."""

    timestep: float
    draw: int
    noisy: bool


def forward_rows(timesteps: Sequence[float], draws: int, noisy: bool) -> list[Row]:
    """All rows of one picture, timesteps outermost."""
    return [Row(float(t), d, noisy) for t in timesteps for d in range(draws)]


def drawn_for(row: Row, seed: int, sample: bool) -> Iterator[Draw]:
    """What noise a row takes: of the posterior if it is sampled, and of the diffusion process if the row is noisy."""
    if sample:
        yield _of_posterior(row, seed)
    if row.noisy:
        yield _of_diffusion(row, seed)


def drawn_ahead(shape: Sequence[int], image: str, draws: Iterable[Draw]) -> dict[Hashable, Tensor]:
    """The noise of a picture for :func:`noisy_latents`, before its latent is there.

    Args:
        shape: ``(c, h, w)``, of the latent.
        image: Key of the picture.
    """
    return {of: keyed_normal(shape, image=image, **of._asdict()) for of in draws}


def _of_posterior(row: Row, seed: int) -> Draw:
    return Draw(seed, "posterior", draw=row.draw)


def _of_diffusion(row: Row, seed: int) -> Draw:
    return Draw(seed, "diffusion", row.timestep, row.draw)


def noisy_latents(
    backbone: Backbone,
    posterior: LatentPosterior,
    rows: Sequence[Row],
    *,
    image: str | Sequence[str],
    seed: int | Sequence[int],
    sample_posterior: bool | Sequence[bool],
    noise: NoiseSource | None = None,
    ahead: Sequence[Mapping[Hashable, Tensor]] = (),
) -> Tensor:
    """The latents that the denoiser reads for ``rows``: all noise is drawn, then brought to the device at once.

    Args:
        posterior: Latent posterior of one picture, shape ``(1, c, h, w)``, or of the picture of each row.
        rows: Rows to build.
        image: Key of the picture, for its noise; one, or one for each row, as ``seed`` and ``sample_posterior``.
        seed: Seed of the recipe.
        sample_posterior: Draw from the posterior (a new draw for each ``row.draw``) or take its mean.
        noise: Where noise comes from; :func:`keyed_normal` if not given.
        ahead: What :func:`drawn_ahead` drew for the picture of each row; what it did not is drawn now.

    Returns:
        ``(len(rows), c, h, w)``.
    """
    draw = noise or keyed_normal
    images = [image] * len(rows) if isinstance(image, str) else image
    seeds = [seed] * len(rows) if isinstance(seed, int) else seed
    samples = [sample_posterior] * len(rows) if isinstance(sample_posterior, bool) else sample_posterior
    shape, like = posterior.mean.shape[1:], posterior.mean

    def one(k: int, of: Draw) -> Tensor:
        known = ahead[k].get(of) if ahead else None
        return known if known is not None and known.shape == shape else draw(shape, image=images[k], **of._asdict())

    def drawn(wanted: Sequence[bool], of: Callable[[Row, int], Draw]) -> Tensor:
        """Of the rows that want none, zeros."""
        each = [one(k, of(rows[k], seeds[k])) if wants else torch.zeros(shape) for k, wants in enumerate(wanted)]
        return moved(torch.stack(each), like.device).to(like.dtype)

    latents = like.expand(len(rows), *shape)
    if any(samples):
        latents = _where(samples, posterior.sample(drawn(samples, _of_posterior)), latents)
    noisy = [row.noisy for row in rows]
    if any(noisy):
        times = [row.timestep for row in rows]
        known = next(t for t, of_row in zip(times, noisy, strict=True) if of_row)  # a clean row's own may be none
        at = torch.tensor([t if of_row else known for t, of_row in zip(times, noisy, strict=True)])
        latents = _where(noisy, backbone.noise(latents, at, drawn(noisy, _of_diffusion)), latents)
    return latents


def _where(rows: Sequence[bool], one: Tensor, other: Tensor) -> Tensor:
    """Rows of ``one`` where it is said so."""
    if all(rows):
        return one
    chosen = torch.tensor(rows).reshape(-1, *[1] * (one.ndim - 1))
    return torch.where(moved(chosen, one.device), one, other)
