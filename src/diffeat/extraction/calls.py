"""The denoiser calls of a group of pictures of one size: with the recipe's techniques, or without any.

Techniques are applied for as long as the calls of one group last; while a stream waits for its consumer the backbone
is what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.extraction.recipe import Recipe
from diffeat.features.picture import Picture
from diffeat.techniques import Scene, Session
from diffeat.trajectories import Row

#: One row of a call: the picture's place in its group, and which latent.
Job = tuple[int, Row]
#: Noisy latents of jobs.
Noise = Callable[[list[Job]], Tensor]
#: The denoiser's arguments for jobs.
Inputs = Callable[[list[Job], Noise], dict[str, Any]]


class Calls:
    """Arguments of denoiser calls by a recipe."""

    def __init__(self, recipe: Recipe, backbone: Backbone) -> None:
        self._recipe = recipe
        self._backbone = backbone
        self._session: Session | None = None
        if recipe.techniques:
            if recipe.trajectory.kind != "noise":
                raise InvalidValueError(
                    f"Techniques act on noisy latents; the trajectory is {recipe.trajectory.kind!r}. Use kind 'noise'."
                )
            self._session = Session(backbone)

    def stream(self) -> AbstractContextManager[object]:
        """A context for a whole stream: adapters are loaded once."""
        return self._session or nullcontext()

    @contextmanager
    def group(self, pictures: Sequence[Picture], pixels: Tensor) -> Iterator[Inputs]:
        """The calls of pictures that share a size."""
        options = self._recipe.conditioning
        if self._session is None:
            with torch.no_grad():
                size = (pixels.shape[-1], pixels.shape[-2])
                conditioning = self._backbone.condition([p.text for p in pictures], size=size, **options)

            def plain(part: list[Job], noise: Noise) -> dict[str, Any]:
                noisy = noise(part)
                times = torch.tensor([row.timestep for _, row in part], device=noisy.device)
                return self._backbone.denoiser_inputs(noisy, times, conditioning.take([i for i, _ in part]))

            yield plain
            return
        self._session.forget_pictures()
        scenes = [Scene(p.key, x, p.text, p.name) for p, x in zip(pictures, pixels, strict=True)]
        with self._session.use(self._recipe.techniques) as steered:
            with torch.no_grad():
                rows = steered.prepare(scenes, **options)

            def inputs(part: list[Job], noise: Noise) -> dict[str, Any]:
                times = [row.timestep for _, row in part]
                of_part = rows.take([i for i, _ in part])
                noisy = steered.arrive(times, noise_at(part, noise), of_part)
                return steered.inputs(noisy, torch.tensor(times), of_part)

            yield inputs


def noise_at(part: list[Job], noise: Noise) -> Callable[[Sequence[int], Sequence[float]], Tensor]:
    """The noisy latents of some of these jobs at other timesteps, as :meth:`Steered.arrive` asks for them."""
    return lambda rows, timesteps: noise(
        [(part[k][0], replace(part[k][1], timestep=t)) for k, t in zip(rows, timesteps, strict=True)]
    )
