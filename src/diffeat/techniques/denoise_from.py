"""Start noisier than where features are read, step down, then read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from diffeat.errors import InvalidValueError
from diffeat.techniques.base import Technique


class DenoiseFrom(Technique, frozen=True):
    """Deterministic (DDIM) steps with all techniques from ``start`` down to the timestep where features are read.

    Attributes:
        start: Timestep of the noise, 1 to 1000, above every timestep that is read.
        steps: Denoiser calls before the reading one, evenly spaced; 0 does nothing.
    """

    words = {"denoise-from": "start"}
    usage = ("denoise-from:60,steps=10",)

    kind: Literal["denoise-from"] = "denoise-from"
    start: float = Field(60, gt=0, le=1000)
    steps: int = Field(10, ge=0, le=1000)

    @property
    def label(self) -> str:
        return f"denoise from {self.start:g} in {self.steps}"

    def null(self) -> DenoiseFrom:
        return DenoiseFrom(start=self.start, steps=0)

    @property
    def before(self) -> int:
        return self.steps

    def arrive(self, t: float) -> Sequence[float]:
        """
        Raises:
            InvalidValueError: If ``t`` is not below the start, or there are more steps than timesteps.
        """
        if self.steps == 0:
            return (t,)
        if not self.start > t:
            raise InvalidValueError(f"denoise-from starts at {self.start:g}, which is not above the timestep {t:g}.")
        span = (self.start - t) / self.steps
        timesteps = [float(round(self.start - i * span)) for i in range(self.steps)] + [t]
        if len(set(timesteps)) != len(timesteps):
            raise InvalidValueError(f"There are no {self.steps} timesteps between {self.start:g} and {t:g}.")
        return timesteps
