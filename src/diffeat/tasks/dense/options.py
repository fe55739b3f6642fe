"""How the network over a recipe's maps is built, and how it is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffeat.explain import InvalidFieldsError


class DecoderOptions(BaseModel):
    """The network over a recipe's maps; the defaults of ``upernet`` are those of GDF and GATE.

    Raises:
        InvalidValueError: A value does not fit; names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: Literal["linear", "fpn", "upernet"] = Field(
        default="linear",
        description="What decodes the maps: 'linear' (batch norm and a classifier), 'fpn' (semantic FPN) or 'upernet'.",
    )
    channels: int | None = Field(default=None, ge=1, description="Inside fpn (256) and upernet (512).")
    pools: tuple[int, ...] = Field(default=(1, 2, 3), description="Of upernet: sides of the pooled grids.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Before the classifier of fpn and upernet.")
    auxiliary: float = Field(
        default=0.4, ge=0, description="Of upernet: weight of a second classifier's loss; 0 for none."
    )
    blocks: Literal["none", "constant", "residual"] | None = Field(
        default=None,
        description="Before levels are joined and after: 'residual' blocks (of upernet, as published), a learned "
        "'constant' per channel (what the published code's blocks come to, which start as zeros), or 'none'.",
    )
    mix: Literal["weights", "concat"] = Field(
        default="weights", description="Views of a recipe: by learned softmax 'weights' per level, or side by side."
    )

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidFieldsError(type(self).__name__, error, type(self)) from None

    @property
    def block(self) -> str:
        """Which blocks there are."""
        return self.blocks or ("residual" if self.head == "upernet" else "none")


class DenseOptions(DecoderOptions):
    """How a dense head is built and trained; a recipe may hold its own under ``tasks: {dense: …}``.

    Raises:
        InvalidValueError: A value does not fit; names the field.
    """

    steps: int = Field(default=2000, ge=1, description="Of the optimiser.")
    batch: int = Field(default=4, ge=1, description="Pictures at once.")
    accumulate: int = Field(default=1, ge=1, description="Batches per step.")
    rate: float = Field(default=1e-3, gt=0, description="Of AdamW.")
    decay: float = Field(default=1e-3, ge=0, description="Weight decay.")
    schedule: Literal["poly", "cosine", "constant"] = Field(
        default="poly", description="How the rate falls: 'poly' (degree 0.9), 'cosine' or 'constant'."
    )
    final: float = Field(default=0.0, ge=0, description="What the rate falls to.")
    warmup: int = Field(default=0, ge=0, description="Steps in which the rate rises from 0.")
    lovasz: float = Field(default=1.0, ge=0, description="Of labels: weight of the Lovász loss beside cross-entropy.")
    crop: int | Literal["whole", "square"] | None = Field(
        default=None,
        description="What is shown: 'whole' pictures, a 'square' of the shorter side, or so many pixels a side; whole "
        "if pictures or the recipe's frame are of one size, else a square.",
    )
    stride: float = Field(
        default=2 / 3,
        gt=0,
        le=1,
        description="Between the windows in which pictures are predicted after crops: a share of their side.",
    )
    blend: Literal["hat", "mean"] = Field(
        default="hat", description="Where such windows overlap: 'hat' (no seams) or 'mean' (as papers do)."
    )
    jitter: tuple[float, float] = Field(
        default=(1.0, 1.0), description="Least and greatest scale of crops: two numbers."
    )
    most: float = Field(
        default=1.0, gt=0, le=1, description="Largest share of one class in a crop, if another can be found."
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="Share of pictures that are mirrored.")
    photometric: bool = Field(default=False, description="Distort brightness, contrast, saturation and hue.")
    variants: int = Field(
        default=4,
        ge=0,
        description="Draws of each picture that are read once and stored; 0 reads a new one each time.",
    )
    precision: Literal["float32", "bfloat16"] = Field(default="float32", description="In which the head is trained.")
    tune: Literal["denoiser", "lora", "none"] = Field(
        default="none", description="What is trained beside the head: the 'denoiser', a 'lora' of it, or 'none'."
    )
    rank: int = Field(default=8, ge=1, description="Of the LoRA.")
    tune_rate: float = Field(default=1e-5, gt=0, description="Rate of what is tuned.")
    learn_text: bool = Field(default=False, description="Train embeddings in place of the text's, which they start as.")
    every: int = Field(default=500, ge=1, description="Steps between validations and checkpoints.")
    seed: int = Field(default=0, ge=0, description="Of first weights, order and augmentation.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.jitter
        if not 0.1 <= low <= high <= 10:
            raise ValueError(f"jitter takes two scales from 0.1 to 10, the smaller first, got {low:g} and {high:g}")
        if isinstance(self.crop, int) and self.crop < 8:
            raise ValueError(f"crop must be 8 pixels or more, got {self.crop}")
        if self.crop == "whole" and (low, high) != (1, 1):
            raise ValueError("jitter scales crops; whole pictures are not scaled")
        idle = [name for name in ("stride", "blend") if name in self.model_fields_set]
        if self.crop == "whole" and idle:
            raise ValueError(f"{', '.join(idle)} would be ignored: whole pictures are predicted whole")
        if self.final > self.rate:
            raise ValueError(f"final {self.final:g} is above the rate {self.rate:g}, which falls to it")
        for names, used, home in (
            (("channels", "dropout", "blocks"), self.head != "linear", "heads fpn and upernet"),
            (("pools", "auxiliary"), self.head == "upernet", "head upernet"),
            (("rank",), self.tune == "lora", "tune lora"),
            (("tune_rate",), self.tunes, "tune and learn_text"),
        ):
            if not used and (idle := [name for name in names if name in self.model_fields_set]):
                raise ValueError(f"{', '.join(idle)} would be ignored: it belongs to {home}")
        if self.tunes and "variants" in self.model_fields_set and self.variants:
            raise ValueError("features of a model that is tuned cannot be stored: leave variants out")
        return self

    @property
    def tunes(self) -> bool:
        """Whether features change while the head is trained."""
        return self.tune != "none" or self.learn_text

    @property
    def draws(self) -> int:
        """Of a picture that are stored; 0 for none."""
        return 0 if self.tunes else self.variants

    @property
    def architecture(self) -> DecoderOptions:
        """The part that the network is built by."""
        return DecoderOptions(**{name: getattr(self, name) for name in DecoderOptions.model_fields})

    def share(self, step: int) -> float:
        """What the rates are multiplied by at a step.

        Example:
            >>> options = DenseOptions(steps=100, rate=1e-3, schedule="cosine", warmup=10)
            >>> [round(options.share(step), 3) for step in (0, 9, 10, 55, 99)]
            [0.1, 1.0, 1.0, 0.5, 0.0]
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        low = self.final / self.rate
        return low + (1 - low) * _CURVES[self.schedule](done)


_CURVES: dict[str, Callable[[float], float]] = {
    "poly": lambda done: (1 - done) ** 0.9,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "constant": lambda done: 1.0,
}
