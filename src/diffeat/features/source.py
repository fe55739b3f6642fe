"""The seam between what gives features and what uses them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from diffeat.errors import DiffeatError
from diffeat.features.picture import Picture

T_co = TypeVar("T_co", covariant=True)


class Spec(Protocol):
    """What a source reads, as a value: every recipe is one."""

    @property
    def name(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def template(self) -> str: ...
    @property
    def hash(self) -> str: ...
    def content(self) -> dict[str, Any]: ...
    def text_for(self, prompt: str | None) -> str: ...


@dataclass(frozen=True)
class Group:
    """Which pictures may share a call.

    Attributes:
        key: Equal for pictures that can be read together.
        most: How many of them to read at once.
    """

    key: Hashable
    most: int = field(default=1, compare=False)


@dataclass(frozen=True)
class Failed:
    """In place of a picture's features: why there are none."""

    error: DiffeatError


class Source(Protocol[T_co]):
    """Anything that turns pictures into features: a recipe on a diffusion model, a vision transformer, a baseline, or
    several of these joined. :func:`diffeat.features.stream` runs it.

    Attributes:
        recipe: What it reads.
        fingerprint: Tells everything that changes the numbers, beside the recipe, from others: weights and
            configurations.
    """

    @property
    def recipe(self) -> Spec: ...
    @property
    def fingerprint(self) -> str: ...

    def group(self, picture: Picture) -> Group:
        """Which pictures may be read together with this one. Raises a :class:`DiffeatError` for a picture that cannot
        be read at all, e.g. because its frame does not suit the model."""
        ...

    def read(self, pictures: Sequence[Picture]) -> Iterable[T_co | Failed]:
        """Features of pictures of one group, in their order."""
        ...

    def session(self) -> AbstractContextManager[object]:
        """What is loaded once for many groups, adapters for instance; may be entered again inside itself."""
        ...
