"""The ``refine`` field of a recipe: AdaLN features as DiTF makes them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffeat.refinement.adaln import Discard


class Refine(BaseModel):
    """How ``adaln`` activations are made from the raw stream.

    With this field the raw streams of all draws are averaged first, then channels are discarded, then the mean is
    normalised and modulated with the model's own parameters. Without it an ``adaln`` activation is the mean of the
    modulated tensors that the model itself computed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    discard: Discard = Field(
        "none", description="massive channels: kept, zeroed before the norm (pre) or after (post), or left out (drop)"
    )
    channels: str | tuple[int, ...] | dict[str, tuple[int, ...]] = Field(
        "detected", description="which to discard: 'detected' in this model, or numbers, or numbers by activation"
    )
    ratio: float = Field(
        30.0, gt=1, description="of the detector: how many times the median channel a massive one is; 5 for tiny models"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Refine:
        if isinstance(self.channels, str) and self.channels != "detected":
            raise ValueError(f"channels must be 'detected' or numbers (got {self.channels!r})")
        if self.discard == "none" and self.channels != "detected":
            raise ValueError("channels are given, but discard is 'none': choose 'pre', 'post' or 'drop'")
        return self
