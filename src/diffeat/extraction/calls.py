"""The denoiser calls of a group of pictures of one size: with the recipe's techniques, or without any.

Techniques are applied for as long as the calls of one group last; while a stream waits for its consumer the backbone
is what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.extraction.recipe import Recipe
from diffeat.features.picture import Picture
from diffeat.techniques import DenoiseFrom, Rows, Scene, Session, Steered
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
                times = torch.tensor([row.timestep for _, row in part])
                of_part = rows.take([i for i, _ in part])
                return steered.inputs(arrive(steered, part, noise, of_part), times, of_part)

            yield inputs


def arrive(steered: Steered, part: list[Job], noise: Noise, rows: Rows) -> Tensor:
    """The latents at which features are read: noised there, or stepped down to there from a noisier start."""
    start = steered.combination.one(DenoiseFrom)
    if start is None or not start.steps:
        return noise(part)
    latents: dict[int, Tensor] = {}
    for t in dict.fromkeys(row.timestep for _, row in part):
        at = [k for k, (_, row) in enumerate(part) if row.timestep == t]
        times = start.timesteps(t)
        noisy = noise([(part[k][0], Row(times[0], part[k][1].draw, True)) for k in at])
        reached = steered.descend(noisy, times, rows.take(at))
        latents |= dict(zip(at, reached, strict=True))
    return torch.stack([latents[k] for k in range(len(part))])
