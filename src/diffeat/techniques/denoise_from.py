"""Start noisier than where features are read, step down, then read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from diffeat.errors import InvalidValueError
from diffeat.techniques.base import Technique


class DenoiseFrom(Technique):
    """Deterministic (DDIM) steps with all techniques from ``start`` down to the timestep where features are read.

    Attributes:
        start: Timestep of the noise, 1 to 1000, above every timestep that is read.
        steps: Denoiser calls before the reading one, evenly spaced; 0 does nothing.
    """

    kind: Literal["denoise-from"] = "denoise-from"
    start: float = Field(60, gt=0, le=1000)
    steps: int = Field(10, ge=0, le=1000)

    @property
    def label(self) -> str:
        return f"denoise from {self.start:g} in {self.steps}"

    def null(self) -> DenoiseFrom:
        return DenoiseFrom(start=self.start, steps=0)

    def timesteps(self, read: float) -> list[float]:
        """Where the denoiser is called before the reading at ``read``, then ``read`` itself.

        Raises:
            InvalidValueError: If ``read`` is not below the start, or there are more steps than timesteps.
        """
        if self.steps == 0:
            return [read]
        if not self.start > read:
            raise InvalidValueError(f"denoise-from starts at {self.start:g}, which is not above the timestep {read:g}.")
        span = (self.start - read) / self.steps
        found = [float(round(self.start - i * span)) for i in range(self.steps)] + [read]
        if len(set(found)) != len(found):
            raise InvalidValueError(f"There are no {self.steps} timesteps between {self.start:g} and {read:g}.")
        return found
