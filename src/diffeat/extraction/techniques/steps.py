"""One deterministic step towards the clean image.

From a prediction at timestep t follow the clean latent :math:`\\hat x_0` and the noise
:math:`\\hat\\epsilon = (x_t - a_t \\hat x_0) / s_t` with signal :math:`a` and noise :math:`s` of the schedule; the
latent at :math:`t' < t` is :math:`a_{t'} \\hat x_0 + s_{t'} \\hat\\epsilon`. For variance-preserving diffusion this is
DDIM with :math:`\\eta = 0` (Song et al. 2021, eq. 12), for rectified flow Euler's step.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.backbones import Backbone


def step_down(
    backbone: Backbone, noisy: Float[Tensor, "b c h w"], prediction: Float[Tensor, "b c h w"], t: float, to: float
) -> Float[Tensor, "b c h w"]:
    """The latent at timestep ``to`` (-1 is the clean image of a discrete schedule)."""
    clean = backbone.estimate_clean(noisy, t, prediction)
    signal = backbone.noise(torch.ones_like(noisy[:1, :1, :1, :1]), t, torch.zeros(1, 1, 1, 1))
    scale = backbone.noise(torch.zeros_like(noisy[:1, :1, :1, :1]), t, torch.ones(1, 1, 1, 1))
    return backbone.noise(clean, to, (noisy - signal * clean) / scale)
