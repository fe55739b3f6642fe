"""Which activations a recipe wants: by name, maps of attention, attention averaged over layers."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from diffeat.activations import MapRequest
from diffeat.extraction.recipe import Part


class MapActivation(Part, frozen=True):
    """An attention map and how it is reduced to a feature map."""

    id: str
    heads: Literal["mean", "all"] = "mean"
    tokens: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] | None = Field(
        default=None, description="which key tokens; none takes all"
    )

    @property
    def request(self) -> MapRequest:
        """In the form that taps take."""
        return MapRequest(self.id, heads=self.heads, tokens=list(self.tokens) if self.tokens else None)


class AttentionActivation(Part, frozen=True):
    """Attention averaged over heads and layers, a channel per token (see :mod:`diffeat.extraction.reduce`)."""

    attention: Literal["down_cross", "mid_cross", "up_cross", "down_self", "mid_self", "up_self"]

    def __str__(self) -> str:
        return f"attention:{self.attention}"


def _which(value: Any) -> str:
    if isinstance(value, dict):  # by its keys, misspelt ones too
        keys = ("attention", "id", "heads", "tokens")
        near = [n for key in value for n in difflib.get_close_matches(str(key)[:40], keys, 1)]
        return "AttentionActivation" if "attention" in near else "MapActivation"
    return "name" if isinstance(value, str) else type(value).__name__


Wanted = Annotated[
    Annotated[str, Tag("name")]
    | Annotated[AttentionActivation, Tag("AttentionActivation")]
    | Annotated[MapActivation, Tag("MapActivation")],
    Discriminator(
        _which,
        custom_error_type="activation",
        custom_error_message="an activation is a name, {id: …} of a map, or {attention: up_cross}",
    ),
]
