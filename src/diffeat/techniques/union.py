"""The techniques that a recipe can hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias, Union

from pydantic import AfterValidator, Field

from diffeat.techniques import TECHNIQUES, Combination, Technique

if TYPE_CHECKING:
    AnyTechnique: TypeAlias = Technique
else:
    AnyTechnique = Annotated[Union[TECHNIQUES], Field(discriminator="kind")]  # noqa: UP007


def _readable(techniques: tuple[Technique, ...]) -> tuple[Technique, ...]:
    Combination(techniques).check_reading()
    return techniques


#: Techniques that can act together while features are read.
Techniques = Annotated[tuple[AnyTechnique, ...], AfterValidator(_readable)]
