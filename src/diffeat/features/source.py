"""The seam between what gives features and what uses them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from diffeat.errors import DiffeatError, InvalidValueError, clipped
from diffeat.features.picture import ImageLike, Picture
from diffeat.geometry import Frame

T = TypeVar("T")

#: A picture or several: a list, a generator, a glob, a batch of tensors (see :func:`diffeat.features.picture.several`).
Images = ImageLike | Iterable[ImageLike]
#: One text for all pictures, or one for each; ``None`` leaves it to the recipe.
Prompts = str | Sequence[str | None] | None
#: Called with the name of a picture that failed and why; returning goes on with the next picture.
OnError = Callable[[str, DiffeatError], None]


def texts_for(prompts: Prompts, count: int) -> list[str | None]:
    """A text for each of so many pictures. Raises InvalidValueError if there are not as many."""
    texts = [prompts] * count if prompts is None or isinstance(prompts, str) else list(prompts)
    if len(texts) != count:
        raise InvalidValueError(f"There are {count} images and {len(texts)} prompts: give one per image.")
    return texts


class Whole(str):
    """A text that goes to the model as it is, not through a recipe's template."""

    __slots__ = ()


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


def check_one_map(recipe: str, maps: Sequence[str]) -> None:
    """For what takes one map of a picture.

    Args:
        recipe: Its name.
        maps: Of the recipe, or of the source that runs it.

    Raises:
        InvalidValueError: They are several.
    """
    if len(maps) > 1:
        names = ", ".join(maps[:3]) + (", …" if len(maps) > 3 else "")
        raise InvalidValueError(
            f"Recipe {clipped(recipe)!r} gives {len(maps)} maps of a picture ({clipped(names, 200)}); this takes one: "
            "join them (--set fuse.kind=concat, in a file 'fuse: {kind: concat}'), or read one of them."
        )


@dataclass(frozen=True)
class Group:
    """Which pictures may share a call.

    Attributes:
        key: Equal for pictures that can be read together.
        most: How many of them to read at once.
        follows: Whether the model's image is as large as the picture asks: a model's tables may end before it does,
            and what the model then raises is that picture's failure.
        frames: Frames that the picture will be seen in, which are made ahead; its own pixels are let go of then. None
            if these are what is read.
        draw: What draws the picture's noise ahead.
    """

    key: Hashable
    most: int = field(default=1, compare=False)
    follows: bool = field(default=False, compare=False)
    frames: tuple[Frame, ...] = field(default=(), compare=False)
    draw: Callable[[Picture], object] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Failed:
    """In place of a picture's features: why there are none."""

    error: DiffeatError


class Source(Protocol[T]):
    """Anything that turns pictures into features: a recipe on a diffusion model, a vision transformer, a baseline, or
    several of these joined. :func:`diffeat.features.stream` runs it.

    Attributes:
        recipe: What it reads.
        fingerprint: Tells everything that changes the numbers, beside the recipe, from others: weights and
            configurations.
        precision: In which features are computed, and in which they were published where that is known.
        map_names: Of the maps that a picture gets, where they are several.
    """

    @property
    def recipe(self) -> Spec: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def map_names(self) -> tuple[str, ...]: ...

    def group(self, picture: Picture) -> Group:
        """Which pictures may be read together with this one. Raises a :class:`DiffeatError` for a picture that cannot
        be read at all, e.g. because its frame does not suit the model."""
        ...

    def read(self, pictures: Sequence[Picture]) -> Iterable[T | Failed]:
        """Features of pictures of one group, in their order."""
        ...

    def session(self) -> AbstractContextManager[object]:
        """What is loaded once for many groups, adapters for instance; may be entered again inside itself."""
        ...

    def extract(self, images: Images, prompts: Prompts = None) -> list[T]:
        """Features of pictures, in their order (given by :class:`~diffeat.features.Streams`)."""
        ...

    def stream(self, images: Images, prompts: Prompts = None, *, on_error: OnError = ...) -> Iterator[T]:
        """Likewise, one picture at a time."""
        ...
