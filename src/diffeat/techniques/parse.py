"""Techniques as text, for the command line: ``WORD[:VALUE][,name=value…]``, joined by `` + `` to combine; and as the
fields of a recipe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeAlias, Union

from pydantic import AfterValidator, Field

from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.techniques import TECHNIQUES, Combination, Technique
from diffeat.techniques.named import code_allowed

if TYPE_CHECKING:
    AnyTechnique: TypeAlias = Technique
else:
    AnyTechnique = Annotated[Union[TECHNIQUES], Field(discriminator="kind")]  # noqa: UP007

_KINDS = {word: kind for kind in TECHNIQUES for word in kind.words}


def _readable(techniques: tuple[Technique, ...]) -> tuple[Technique, ...]:
    Combination(techniques).check_reading()
    return techniques


#: Techniques that can act together while features are read.
Techniques = Annotated[tuple[AnyTechnique, ...], AfterValidator(_readable)]


def usage() -> str:
    """The text forms of all techniques."""
    return ", ".join(form for kind in TECHNIQUES for form in kind.usage)


def parse_combination(text: str, *, allow_code: bool = False) -> Combination:
    """A combination from its text; functions that it names are imported (and their modules run) if code is allowed."""
    with code_allowed(allow_code):
        return Combination(_technique(part.strip()) for part in text.split(" + "))


def _technique(text: str) -> Technique:
    word, _, rest = text.partition(":")
    if word not in _KINDS:
        raise UnknownNameError(
            f"There is no technique {word!r}. {did_you_mean(word, _KINDS)} E.g. controlnet:MODEL,scale=0.8"
        )
    kind = _KINDS[word]
    main = kind.words[word]
    if kind.whole:
        if not rest:
            raise InvalidValueError(f"{word} needs a value: {word}:… ")
        return kind(**{main: rest})
    values: dict[str, str] = {}
    for i, part in enumerate(rest.split(",") if rest else []):
        name, equals, value = part.partition("=")
        if i == 0 and not equals:
            values[main] = part
        elif not equals or name not in kind.model_fields or name == "kind":
            options = [f for f in kind.model_fields if f != "kind"]
            raise UnknownNameError(f"{word} has no option {part!r}. {did_you_mean(name, options)} Write name=value.")
        else:
            values[name] = value
    return kind(**values)
