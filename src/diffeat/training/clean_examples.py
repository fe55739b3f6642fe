"""What a step of :func:`~diffeat.training.train_clean` learns from: a function of its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from diffeat.backbones import Backbone, LatentPosterior
from diffeat.errors import DatasetError, ImageError, InvalidValueError
from diffeat.evaluation.features import Kept
from diffeat.extraction import Reading
from diffeat.features import OnError, Picture, model_images
from diffeat.memory import moved


class Example(NamedTuple):
    """A picture in a step: its clean latent, its text, and the timesteps and noise that it is shown to the original
    with."""

    latent: Tensor
    text: str
    size: tuple[int, int]
    times: Tensor
    noise: Tensor


class Examples:
    """Pictures with timesteps and noise, which torch's random numbers of the moment decide.

    Args:
        pictures: With the texts that are told of them.
        on_error: Told a picture that cannot be read; the next one takes its place.
    """

    def __init__(
        self,
        backbone: Backbone,
        recipe: Reading,
        pictures: Sequence[Picture],
        levels: int,
        seed: int,
        on_error: OnError,
    ) -> None:
        self.pictures = pictures
        self._backbone, self._recipe, self._levels, self._seed = backbone, recipe, levels, seed
        self._on_error = on_error
        self._broken: set[int] = set()
        self._orders: Kept[int, np.ndarray] = Kept(2)
        self._latents: Kept[int, tuple[LatentPosterior, tuple[int, int]]] = Kept(
            len(pictures), lambda kept: kept[0].mean.nbytes + kept[0].std.nbytes
        )

    def __getitem__(self, place: int) -> Example:
        """The picture at a place of the order without end; all come before one comes again."""
        posterior, size, picture = self._readable(place)
        levels, shape = self._levels, posterior.mean.shape
        latent = posterior.mean
        if self._recipe.trajectory.latent == "sample":
            latent = posterior.sample(torch.randn(shape))
        edges = torch.linspace(1, self._backbone.train_steps, levels + 1)
        times = (edges[:-1] + torch.rand(levels) * edges.diff()).floor().clamp(max=edges[-1] - 1)
        noise = torch.randn(levels, *shape[1:])
        text = self._recipe.prompt if picture.text is None else picture.text
        return Example(moved(latent[0], self._backbone.device), text, size, times, noise)

    def _readable(self, place: int) -> tuple[LatentPosterior, tuple[int, int], Picture]:
        turn, first = divmod(place, count := len(self.pictures))
        order = self._orders.get_or_make(turn, lambda: np.random.default_rng((self._seed, turn)).permutation(count))
        for i in range(count):
            k = int(order[(first + i) % count])
            if k in self._broken:
                continue
            picture = self.pictures[k].told(self.pictures[k].text)  # forgets its pixels
            try:
                return *self._latents.get_or_make(k, lambda one=picture: self._encoded(one)), picture
            except (ImageError, InvalidValueError) as error:
                self._broken.add(k)
                self._on_error(picture.name, error)
        raise DatasetError(f"None of the {count} pictures can be read.")

    def _encoded(self, picture: Picture) -> tuple[LatentPosterior, tuple[int, int]]:
        frame = self._backbone.frame(self._recipe.frame, picture.size, picture.name)
        posterior = self._backbone.encode_images(model_images([picture], [frame], self._backbone.device))
        return LatentPosterior(posterior.mean.cpu(), posterior.std.cpu()), frame.model
