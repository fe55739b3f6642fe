"""What is known of single models: where their weights are, under which licence, and what must not be mistaken for them.

The cards are in ``cards.yaml``.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from diffeat.backbones.families import FAMILIES
from diffeat.errors import ModelError

HubId = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]


class Massive(BaseModel):
    """Channels of a model that are far larger than the others: where (if the source says), which, who found them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    activations: tuple[str, ...] = ()
    channels: tuple[int, ...] = Field(min_length=1)
    source: str = Field(min_length=1)


class Card(BaseModel):
    """One model.

    Attributes:
        family: Name of its family.
        ids: Hub ids to try in order; those after the first are copies of the same weights.
        weights: Where weights are that ``diffeat convert`` makes a pipeline of, if the hub has none.
        revision: Revision of the first id; the newest by default.
        licence: As the hub names it.
        gated: Whether it must be accepted on the hub before downloading.
        prediction: What the denoiser predicts.
        size: Width and height in pixels of the images it is made for.
        massive: Its massive channels, as far as somebody has published them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    ids: tuple[HubId, ...] = ()
    weights: str | None = None
    revision: str | None = None
    licence: str = Field(min_length=1)
    gated: bool = False
    prediction: Literal["epsilon", "v_prediction", "sample", "flow"]
    size: tuple[int, int]
    massive: tuple[Massive, ...] = ()

    @model_validator(mode="after")
    def _of_a_family(self) -> Card:
        if self.family not in FAMILIES:
            raise ValueError(f"there is no family {self.family!r}")
        if FAMILIES[self.family].flow != (self.prediction == "flow"):
            raise ValueError(f"the family {self.family!r} does not predict {self.prediction!r}")
        if bool(self.ids) == bool(self.weights):
            raise ValueError("it has either ids on the hub or weights that are converted")
        return self


class Unsupported(BaseModel):
    """Classes of diffusers (or patterns) that cannot be used, what is different about them, what to load instead."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...]
    why: str
    instead: tuple[str, ...] = Field(min_length=1)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    models: dict[str, Card]
    unsupported: list[Unsupported]


@cache
def _file() -> _File:
    text = (files("diffeat.backbones") / "cards.yaml").read_text(encoding="utf-8")
    return _File.model_validate(yaml.safe_load(text))


def cards() -> dict[str, Card]:
    """The models that have a name, by that name."""
    return _file().models


def unsupported() -> list[Unsupported]:
    """What is known not to work."""
    return _file().unsupported


def refuse_unsupported(*classes: str) -> None:
    """Refuse pipelines and denoisers that are known not to work; says what to load instead."""
    for entry in unsupported():
        for name in classes:
            if any(fnmatchcase(name, pattern) for pattern in entry.classes):
                instead = " or ".join(repr(model) for model in entry.instead)
                raise ModelError(f"{name} is not supported: {entry.why}. Load {instead} instead.")
