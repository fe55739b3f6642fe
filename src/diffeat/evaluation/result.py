"""What every evaluation ends in: numbers that can be quoted, shown, and added up over parts of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol, Self

from diffeat.errors import InvalidValueError
from diffeat.evaluation.intervals import Interval
from diffeat.notebook import Displayed, Html, notes, paragraph, table

#: Header and rows; the last row sums up.
Table = tuple[list[str], list[list[str]]]


class Result(Protocol):
    """The outcome of a task; printing it tells the protocol beside the numbers."""

    @property
    def dataset(self) -> str: ...
    @property
    def recipe(self) -> str: ...
    @property
    def recipe_hash(self) -> str: ...

    @property
    def value(self) -> float:
        """The number that is quoted, in percent."""
        ...

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the numbers must know."""
        ...

    def interval(self) -> Interval:
        """Of :attr:`value`, by resampling what was scored."""
        ...

    def table(self) -> Table:
        """By category, class or object, and in all."""
        ...

    def merge(self, other: Self) -> Self:
        """The result of both parts of a dataset: what scoring them together would give.

        Raises:
            InvalidValueError: The parts were not scored alike.
        """
        ...


class Tabled(Displayed):
    """What a study or a task ends in, shown with its table and what must be known of it."""

    def table(self) -> Table:
        """Header and rows."""
        raise NotImplementedError

    def _details(self) -> Iterator[Html]:
        yield table(*self.table())
        yield notes(getattr(self, "notes", ()))


class ShownResult(Tabled):
    """How a :class:`Result` shows itself."""

    dataset: str
    recipe: str

    @property
    def value(self) -> float:
        """See :class:`Result`."""
        raise NotImplementedError

    def interval(self) -> Interval:
        """See :class:`Result`."""
        raise NotImplementedError

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        return self.dataset, {"value": f"{self.value:.2f}", "recipe": self.recipe}

    def _details(self) -> Iterator[Html]:
        yield paragraph(f"{self.value:.2f} {self.interval()}, an interval of 95%")
        yield from super()._details()


def check_alike(one: object, other: object, *names: str) -> None:
    """Refuse to merge results that differ in more than the part of the dataset.

    Raises:
        InvalidValueError: Naming the difference.
    """
    for name in ("dataset", "recipe_hash", *names):
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine != theirs:
            raise InvalidValueError(f"Results of different {name} cannot be merged: {mine!r} and {theirs!r}.")


def joined(*notes: Sequence[str]) -> tuple[str, ...]:
    """Notes of several parts, each once."""
    return tuple(dict.fromkeys(note for part in notes for note in part))
