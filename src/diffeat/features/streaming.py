"""The loop that brings pictures to a source: names, texts, order, grouping and errors, once for every source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from typing import Any, Generic, TypeVar

from diffeat.ambient import neutral
from diffeat.errors import (
    DiffeatError,
    ImageError,
    InvalidValueError,
    NonFiniteError,
    TooLargeError,
    UnknownNameError,
    clipped,
)
from diffeat.features.ahead import HELD, opened_ahead
from diffeat.features.picture import Picture, count, several
from diffeat.features.source import Failed, Group, Images, OnError, Prompts, Source
from diffeat.memory import out_of_memory

T = TypeVar("T")

#: Faults that lie in a picture or its text, not in the model.
_OF_A_PICTURE = (ImageError, InvalidValueError, NonFiniteError, TooLargeError, UnknownNameError)


def raise_error(_name: str, error: DiffeatError) -> None:
    """An :data:`OnError` that ends the stream."""
    raise error


def stream(
    source: Source[T],
    images: Images,
    prompts: Prompts = None,
    *,
    on_error: OnError = raise_error,
) -> Iterator[T]:
    """Features of pictures, one at a time and in their order; only the pictures of two calls are held.

    While one call runs, the pictures of the next are read (see :mod:`diffeat.features.ahead`).

    Args:
        source: What reads them.
        images: A picture, a list, a generator, a glob or a batch of tensors (see :func:`several`).
        prompts: One text for all, or one per picture; goes through the recipe's template.
        on_error: What to do with a picture that fails; raises by default.

    Raises:
        InvalidValueError: There are not as many prompts as pictures.
    """
    texts = prompts if prompts is None or isinstance(prompts, str) else list(prompts)
    expected = count(images) if isinstance(texts, list) else None
    if isinstance(texts, list) and expected is not None and expected != len(texts):  # before anything is read
        raise InvalidValueError(_uneven(expected, len(texts)))
    waiting: list[Picture] = []
    group, part = Group(None), None

    def prepare(picture: Picture) -> None:
        for frame in source.group(picture).frames:
            picture.levels(frame)

    with ExitStack() as stack:
        with neutral():
            stack.enter_context(source.session())
        pictures = _pictures(source, images, texts, on_error)
        pictures = stack.enter_context(closing(opened_ahead(pictures, prepare, lambda: group.most)))
        for picture in pictures:
            try:
                _ = picture.image
                with neutral():
                    here, of = source.group(picture), picture.apart
            except DiffeatError as error:
                on_error(picture.name, error)
                continue
            held = sum(p.bytes_held for p in waiting)
            if waiting and ((here, of) != (group, part) or len(waiting) >= group.most or held > HELD):
                yield from _read(source, waiting, group, on_error)
                waiting = []
            group, part = here, of
            waiting.append(picture)
        if waiting:
            yield from _read(source, waiting, group, on_error)


class Streams(Generic[T]):
    """The two ways in which a user runs a source; every source inherits them."""

    #: See :class:`~diffeat.features.Source`; empty where a source does not tell.
    precision: str = ""

    @property
    def map_names(self) -> tuple[str, ...]:
        """There is one."""
        return ()

    def extract(
        self: Source[T],  # pyright: ignore[reportGeneralTypeIssues]
        images: Images,
        prompts: Prompts = None,
    ) -> list[T]:
        """Features of pictures, in their order.

        Args:
            images: A picture or several: paths, globs, PIL images, arrays, float tensors ``(3, H, W)`` or
                ``(B, 3, H, W)`` in [0, 1].
            prompts: One text for all, or one per picture; goes through the recipe's template.

        Raises:
            ImageError: A picture cannot be read.
            InvalidValueError: There are not as many prompts as pictures, or a picture does not suit the model.
            NonFiniteError: Features hold NaN or infinity.
        """
        return list(stream(self, images, prompts))

    def stream(
        self: Source[T],  # pyright: ignore[reportGeneralTypeIssues]
        images: Images,
        prompts: Prompts = None,
        *,
        on_error: OnError = raise_error,
    ) -> Iterator[T]:
        """Like :meth:`extract`, one picture at a time and holding only a few in memory.

        Args:
            on_error: What to do with a picture that fails; raises by default.
        """
        return stream(self, images, prompts, on_error=on_error)

    def session(self) -> AbstractContextManager[Any]:
        """Nothing has to be loaded."""
        return nullcontext()


def _pictures(
    source: Source[T], images: Images, texts: str | list[str | None] | None, on_error: OnError
) -> Iterator[Picture]:
    number = 0
    for number, image in enumerate(several(images), 1):
        if isinstance(texts, list) and number > len(texts):
            raise InvalidValueError(_uneven(f"more than {len(texts)}", len(texts)))
        text = texts[number - 1] if isinstance(texts, list) else texts
        try:
            picture = Picture.of(image)
        except DiffeatError as error:
            on_error(f"picture {number}", error)
            continue
        yield picture.told(source.recipe.text_for(text) if text and picture.text is None else picture.text)
    if isinstance(texts, list) and len(texts) > number:
        raise InvalidValueError(_uneven(number, len(texts)))


def _uneven(pictures: int | str, prompts: int) -> str:
    return f"There are {pictures} images and {prompts} prompts: give one per image, or one for all."


def _read(source: Source[T], pictures: Sequence[Picture], group: Group, on_error: OnError) -> Iterator[T]:
    """Features of a group; where it fails as a whole, in halves, so that one picture costs no other."""
    results = _results(source, pictures, group)
    if results is None:
        half = len(pictures) // 2
        yield from _read(source, pictures[:half], group, on_error)
        yield from _read(source, pictures[half:], group, on_error)
        return
    for picture, result in zip(pictures, results, strict=True):
        if isinstance(result, Failed):
            on_error(picture.name, result.error)
        else:
            yield result


def _results(source: Source[T], pictures: Sequence[Picture], group: Group) -> list[T | Failed] | None:
    """``None`` where several pictures fail together."""
    try:
        with neutral():
            return list(source.read(pictures))
    except DiffeatError as error:
        if len(pictures) == 1 and not isinstance(error, _OF_A_PICTURE):
            raise
        failed = error
    except Exception as error:
        if out_of_memory(error):
            failed = TooLargeError(f"{pictures[0].name} does not fit into memory. Use a smaller frame size.")
        elif group.follows and isinstance(error, (IndexError, ValueError, RuntimeError)):
            size = "×".join(map(str, pictures[0].image.size))
            failed = ImageError(
                f"{pictures[0].name}: the model cannot take a picture of {size} pixels ({type(error).__name__}: "
                f"{clipped(str(error), 200)}). Give the frame a size."
            )
            failed.__cause__ = error
        else:
            raise
    return None if len(pictures) > 1 else [Failed(failed)]
