"""What the library knows about a dataset: a card beside its reader, registered in :mod:`diffeat.datasets.registry`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeVar, overload

from diffeat.errors import DatasetError, InvalidValueError, UnknownNameError, did_you_mean

Kind = Literal["pairs", "homographies", "label maps", "classes", "videos", "depth", "normals"]
T = TypeVar("T")


@dataclass(frozen=True)
class DatasetCard:
    """A dataset by name.

    Attributes:
        name: As the command line spells it.
        kind: What it is read into: pairs of pictures with points or with homographies, pictures with label maps, with
            classes, with depth or with normals, or videos.
        read: ``read(root, split, **options)``; without ``split`` where there are no splits.
        splits: Those it has; ``train`` is learned from, ``val`` is chosen on. Empty where the root is the data itself.
        scored: The split that is scored if none is named.
        protocol: Of pairs: the protocol that its papers use.
        page: Where it comes from.
        options: Further keywords of ``read``, with a line of help for each.
    """

    name: str
    kind: Kind
    read: Callable[..., Any]
    splits: tuple[str, ...] = ()
    scored: str = "test"
    protocol: str = ""
    page: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def split(self, name: str | None = None) -> str | None:
        """The split of a name (``trn`` is ``train``), the scored one of no name, ``None`` where there are no splits.

        Raises:
            UnknownNameError: No such split.
            InvalidValueError: There are no splits.
        """
        if not self.splits:
            if name is not None:
                raise InvalidValueError(f"Dataset {self.name!r} has no splits; leave --split out.")
            return None
        split = {None: self.scored, "trn": "train"}.get(name, name)
        if split not in self.splits:
            raise UnknownNameError(
                f"{self.name} has no split {name!r}. {did_you_mean(str(name), self.splits)}".rstrip()
            )
        return split

    def split_to_choose_on(self, *names: str) -> str | None:
        """The first of ``names`` (by default ``val``) that there is; ``None`` where the root is the data itself.

        Raises:
            InvalidValueError: There are splits, but none of these: nothing is chosen on what is scored.
        """
        if not self.splits:
            return None
        for name in names or ("val",):
            if name in self.splits:
                return name
        raise InvalidValueError(
            f"{self.name} has no {' or '.join(names or ('val',))} split, and nothing is chosen on the split that is "
            f"scored. Name one with --split (it has {', '.join(self.splits)}), or take a dataset with a val split."
        )


class Samples(Sequence[T]):
    """A dataset that is read: its samples in their order, and notes for the reader of its numbers."""

    name: str
    split: str
    notes: tuple[str, ...]
    _field: str = "samples"
    _word: str = "pictures"

    @property
    def _items(self) -> tuple[T, ...]:
        return getattr(self, self._field)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[T, ...]: ...
    def __getitem__(self, index: int | slice) -> T | tuple[T, ...]:
        return self._items[index]

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    def limited(self, count: int | None) -> Self:
        """``count`` samples spread evenly over the list, so that all categories stay, and noted; all if ``None``."""
        total = len(self)
        if count is None or count >= total:
            return self
        if count < 1:
            raise DatasetError(f"A limit must be at least 1, got {count}.")
        chosen = tuple(self[int(i * total / count)] for i in range(count))
        return self._with(chosen, f"only {count} of {total} {self._word}, taken at even steps")

    def _with(self, items: tuple[T, ...], note: str) -> Self:
        return replace(self, **{self._field: items}, notes=(*self.notes, note))  # pyright: ignore[reportArgumentType]
