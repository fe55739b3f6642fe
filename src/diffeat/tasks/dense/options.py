"""How the network over a recipe's maps is built."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

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
