"""Noise levels by timestep, 0 to 1000 of the training schedule, whatever scheduler class a pipeline came with.

Discrete diffusion, variance preserving (Ho et al. 2020, eq. 4), t an index of the training schedule:
:math:`x_t = \\sqrt{\\bar\\alpha_t} x_0 + \\sqrt{1 - \\bar\\alpha_t} \\epsilon`.
By convention t = -1 is the clean image (:math:`\\bar\\alpha = 1`).

Rectified flow (Liu et al. 2022; Esser et al. 2024, eq. 13): :math:`x_t = (1 - s) x_0 + s \\epsilon`, s = t / 1000, and
the network predicts :math:`v = \\epsilon - x_0`.

Estimates of the clean latent from a prediction:
noise, :math:`(x_t - \\sqrt{1 - \\bar\\alpha} \\epsilon) / \\sqrt{\\bar\\alpha}`;
velocity (Salimans & Ho 2022, sec. 4), :math:`\\sqrt{\\bar\\alpha} x_t - \\sqrt{1 - \\bar\\alpha} v`;
flow, :math:`x_t - s v`; sample, the prediction itself.

Estimates of the noise: the prediction itself; velocity, :math:`\\sqrt{\\bar\\alpha} v + \\sqrt{1 - \\bar\\alpha} x_t`;
flow, :math:`x_t + (1 - s) v`; sample, :math:`(x_t - \\sqrt{\\bar\\alpha} x_0) / \\sqrt{1 - \\bar\\alpha}`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.errors import InvalidValueError, ModelError

_DISCRETE = ("epsilon", "v_prediction", "sample")


class NoiseSchedule:
    """The training schedule of a pipeline, by the training configuration of its scheduler."""

    def __init__(self, scheduler: Any, flow: bool) -> None:
        self.flow = flow
        self.alphas = torch.empty(0)
        self.prediction_type: str = "flow" if flow else scheduler.config.get("prediction_type", "epsilon")
        if flow:
            return
        if self.prediction_type not in _DISCRETE:
            raise ModelError(
                f"The scheduler's prediction_type is {self.prediction_type!r}; known are: {', '.join(_DISCRETE)}."
            )
        table = getattr(scheduler, "alphas_cumprod", None)
        if table is None:
            raise ModelError(
                f"{type(scheduler).__name__} has no alphas_cumprod, so the noise level of a timestep is unknown. Put "
                "the scheduler the model was trained with (DDPMScheduler, DDIMScheduler, …) into the pipeline."
            )
        self.alphas = table.detach().float().cpu()
        if not len(self.alphas) or not ((self.alphas >= 0) & (self.alphas <= 1)).all():
            raise ModelError(f"The betas of this {type(scheduler).__name__} give no noise levels: some are no numbers.")

    @property
    def steps(self) -> int:
        """Timesteps of the training schedule."""
        return 1000 if self.flow else len(self.alphas)

    def check(self, t: float | Tensor, batch: int) -> Float[Tensor, " b"]:
        """``t`` as one float32 number per row, on the CPU; refused outside the schedule, or between discrete steps."""
        times = torch.as_tensor(t, dtype=torch.float32, device="cpu").detach().reshape(-1)
        if len(times) not in (1, batch):
            raise InvalidValueError(f"{len(times)} timesteps are given for {batch} rows; give one, or one per row.")
        for value in times.tolist():
            if self.flow and not 0 <= value <= 1000:
                raise InvalidValueError(f"The timestep {value:g} is outside 0 to 1000.")
            if not self.flow and (value % 1 != 0 or not -1 <= value < self.steps):
                raise InvalidValueError(
                    f"The timestep {value:g} is not one of this model's training schedule: whole numbers from 0 (least "
                    f"noise) to {self.steps - 1}."
                )
        return times.expand(batch)

    def mix(self, times: Float[Tensor, " b"], like: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the clean latent and of the noise, shaped to multiply ``like`` (checked timesteps)."""
        if self.flow:
            sigma = times / 1000
            signal, noise = 1 - sigma, sigma
        else:
            bar = torch.cat([self.alphas, self.alphas.new_ones(1)])[times.long()]  # index -1 is the clean image
            signal, noise = bar.sqrt(), (1 - bar).sqrt()
        shape = (-1, *[1] * (like.ndim - 1))
        return signal.to(like).reshape(shape), noise.to(like).reshape(shape)

    def clean(self, noisy: Tensor, times: Float[Tensor, " b"], prediction: Tensor) -> Tensor:
        """The clean latent that a prediction implies."""
        signal, noise = self.mix(times, noisy)
        match self.prediction_type:
            case "flow":
                return noisy - noise * prediction
            case "epsilon":
                return (noisy - noise * prediction) / signal
            case "v_prediction":
                return signal * noisy - noise * prediction
            case _:
                return prediction

    def noise_of(self, noisy: Tensor, times: Float[Tensor, " b"], prediction: Tensor) -> Tensor:
        """The noise that a prediction implies."""
        signal, noise = self.mix(times, noisy)
        match self.prediction_type:
            case "flow":
                return noisy + signal * prediction
            case "epsilon":
                return prediction
            case "v_prediction":
                return signal * prediction + noise * noisy
            case _ if bool((noise == 0).any()):
                raise InvalidValueError(
                    "A model that predicts the clean image says nothing about noise where there is none, so it cannot "
                    "be inverted. Use a model that predicts noise, velocity or flow."
                )
            case _:
                return (noisy - signal * prediction) / noise
