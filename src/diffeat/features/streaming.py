"""The loop that brings pictures to a source: names, texts, order, grouping and errors, once for every source."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
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

#: Pictures among which those of one size are sought.
_WINDOW = 16
#: Faults that lie in a picture or its text, not in the model.
_OF_A_PICTURE = (ImageError, InvalidValueError, NonFiniteError, TooLargeError, UnknownNameError)


def raise_error(_name: str, error: DiffeatError) -> None:
    """An :data:`OnError` that ends the stream."""
    raise error


def stream(
    source: Source[T], images: Images, prompts: Prompts = None, *, on_error: OnError = raise_error
) -> Iterator[T]:
    """Features of pictures, one at a time and in their order; only the pictures of a few calls are held.

    While one call runs, the pictures of the next are read (see :mod:`diffeat.features.ahead`). Pictures of one size
    share calls though others stand between them: of a window of pictures that follow one another, those of one group
    go together, as many as a call takes. The window depends on the pictures alone, never on time.

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
    group, part = Group(None), None
    line: deque[_Place[T]] = deque()
    waiting: dict[Group, list[tuple[_Place[T], Picture]]] = {}  # those of the line that were not read yet
    held = 0  # bytes of their pixels

    def prepare(picture: Picture) -> None:
        of = source.group(picture)
        for frame in of.frames:
            picture.levels(frame)
        if of.draw is not None:
            of.draw(picture)
        if of.frames:
            picture.let_go()

    def ready() -> Iterator[T]:
        while line and line[0].result is not None:
            first = line.popleft()
            if isinstance(first.result, Failed):
                on_error(first.name, first.result.error)
            elif first.result is not None:
                yield first.result

    def call(of: Group) -> Iterator[T]:
        """Read the pictures of a group that wait."""
        nonlocal held
        taken = waiting.pop(of)
        held -= sum(place.held for place, _ in taken)
        results = _read(source, [picture for _, picture in taken], of)
        for (place, _), result in zip(taken, results, strict=True):
            place.result = result
        yield from ready()

    def rest() -> Iterator[T]:
        while waiting:
            yield from call(next(iter(waiting)))

    with ExitStack() as stack:
        with neutral():
            stack.enter_context(source.session())
        pictures = _pictures(source, images, texts, on_error)
        pictures = stack.enter_context(closing(opened_ahead(pictures, prepare, lambda: group.most)))
        for picture in pictures:
            try:
                _ = picture.size
                with neutral():
                    here = source.group(picture)
            except DiffeatError as error:
                on_error(picture.name, error)
                continue
            if picture.apart != part or held > HELD or len(line) >= max(_WINDOW, 2 * here.most):
                yield from rest()
            group, part = here, picture.apart
            line.append(_Place(picture.name, picture.bytes_held))
            waiting.setdefault(here, []).append((line[-1], picture))
            held += line[-1].held
            if len(waiting[here]) >= here.most:
                yield from call(here)
        yield from rest()


@dataclass(eq=False)
class _Place(Generic[T]):
    """A picture in line, and what came of it."""

    name: str
    held: int
    result: T | Failed | None = None


class Streams(Generic[T]):
    """The two ways in which a user runs a source; every source inherits them."""

    @property
    def precision(self) -> str:
        """See :class:`~diffeat.features.Source`; empty where a source does not tell."""
        return ""

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


def _read(source: Source[T], pictures: Sequence[Picture], group: Group) -> list[T | Failed]:
    """Features of a group; where it fails as a whole, in halves, so that one picture costs no other."""
    results = _results(source, pictures, group)
    if results is not None:
        return results
    half = len(pictures) // 2
    return _read(source, pictures[:half], group) + _read(source, pictures[half:], group)


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
            size = "×".join(map(str, pictures[0].size))
            failed = ImageError(
                f"{pictures[0].name}: the model cannot take a picture of {size} pixels ({type(error).__name__}: "
                f"{clipped(str(error), 200)}). Give the frame a size."
            )
            failed.__cause__ = error
        else:
            raise
    return None if len(pictures) > 1 else [Failed(failed)]
