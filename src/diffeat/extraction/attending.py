"""The forward passes of a recipe over one picture, for what looks at attentions while they run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.extraction.reading import Reading
from diffeat.extraction.recipe import Recipe
from diffeat.features import Picture
from diffeat.geometry import Frame
from diffeat.trajectories import Row, noisy_latents


def check_attending(recipe: Recipe) -> None:
    """Refuse what is no plain reading of one diffusion model at noise levels."""
    if not isinstance(recipe, Reading):
        raise InvalidValueError(
            f"Recipe {recipe.name!r} reads no single diffusion model, whose attention could be watched. Take one that "
            "does, as tiny-unet or dift-sd21."
        )
    if recipe.trajectory.stepped or recipe.techniques or recipe.views is not None:
        raise InvalidValueError(
            f"Recipe {recipe.name!r} walks, has techniques or views; attention is watched in plain forward passes. "
            "Take another recipe, or change the trajectory (--set trajectory.kind=noise)."
        )


def passes(recipe: Reading, backbone: Backbone, picture: Picture, text: str) -> Iterator[dict[str, Any]]:
    """Arguments of the denoiser for every timestep and draw of a recipe, one row each, under a text as it is."""
    check_attending(recipe)
    path, frame = recipe.trajectory, frame_of(recipe, backbone, picture)
    posterior = backbone.encode_images(picture.pixels(frame)[None])
    conditioning = backbone.condition([text], frame.model, **recipe.conditioning)
    for t in path.timesteps:
        for draw in range(path.draws):
            noisy: Tensor = noisy_latents(
                backbone,
                posterior[0],
                [Row(float(t), draw, path.kind == "noise")],
                image=picture.key,
                seed=recipe.seed,
                sample_posterior=path.latent == "sample",
            )
            yield backbone.denoiser_inputs(noisy, torch.tensor([float(t)]), conditioning)


def frame_of(recipe: Reading, backbone: Backbone, picture: Picture) -> Frame:
    """Where a picture lies in the model's image."""
    return backbone.frame(recipe.frame, picture.size, picture.name)
