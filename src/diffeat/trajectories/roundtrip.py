"""Inversion and back: how much of an image a path with few steps loses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.backbones import Backbone, Conditioning
from diffeat.trajectories.ode import Walk, ode_steps, walk


@dataclass(frozen=True)
class RoundTrip:
    """An inversion and the generation from its end.

    Attributes:
        inversion: All states from the image to noise.
        generation: All states back.
    """

    inversion: Walk
    generation: Walk

    def error(self) -> Tensor:
        """(b,) root mean square error of the latents that came back, over that of the latents themselves."""
        start, end = self.inversion.latents[0], self.generation.end
        return (end - start).flatten(1).norm(dim=1) / start.flatten(1).norm(dim=1)


@torch.no_grad()
def round_trip(
    backbone: Backbone, latents: Float[Tensor, "b c h w"], conditioning: Conditioning, steps: int
) -> RoundTrip:
    """Invert clean latents in ``steps`` steps and generate from where that ends, in as many, without guidance."""
    with backbone.ready():
        there = walk(backbone, latents, ode_steps("inversion", steps, backbone), conditioning, keep=True)
        back = walk(backbone, there.end, ode_steps("generation", steps, backbone), conditioning, keep=True)
    return RoundTrip(there, back)
