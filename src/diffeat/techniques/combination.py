"""Several techniques at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from diffeat.errors import InvalidValueError
from diffeat.techniques.base import Custom, Technique

T = TypeVar("T")


class Combination:
    """Techniques that act together; equal for equal techniques in whatever order.

    Args:
        techniques: None is the base. Of kinds that do not add up (see ``Technique.once``) there can be one.

    Raises:
        InvalidValueError: If a kind comes twice that cannot.
    """

    def __init__(self, techniques: Iterable[Technique | Custom] = ()) -> None:
        self.techniques = tuple(techniques)
        for item in self.techniques:
            if not isinstance(item, (Technique, Custom)):
                raise InvalidValueError(
                    f"{item!r} is no technique: use a class of diffeat.techniques, e.g. LoRA, or an object with label, "
                    "apply(pipeline) and null()."
                )
        for kind, count in Counter(type(t) for t in self.all(Technique) if t.once).items():
            if count > 1:
                raise InvalidValueError(
                    f"{count} techniques of the kind {kind.__name__} are combined; there can be one."
                )

    @classmethod
    def of(cls, value: Combinable) -> Combination:
        """A combination of whatever stands for one."""
        if isinstance(value, Combination):
            return value
        if value is None:
            return cls()
        return cls([value]) if isinstance(value, (Technique, Custom)) else cls(value)

    def __iter__(self) -> Iterator[Technique | Custom]:
        return iter(self.techniques)

    def __len__(self) -> int:
        return len(self.techniques)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Combination) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"Combination({self.label})"

    @property
    def key(self) -> str:
        """Equal for combinations that do the same."""
        return "\n".join(sorted(technique_key(t) for t in self))

    @property
    def label(self) -> str:
        """For tables."""
        return " + ".join(t.label for t in self) or "base"

    def null(self) -> Combination:
        """All of them at zero strength."""
        return Combination([t.null() for t in self])

    def all(self, kind: type[T]) -> list[T]:
        """The techniques of a kind, in order."""
        return [t for t in self if isinstance(t, kind)]

    def one(self, kind: type[T]) -> T | None:
        """The technique of a kind of which there can be one."""
        return next(iter(self.all(kind)), None)

    @property
    def layers(self) -> list[Technique | Custom]:
        """The techniques that change layers of the pipeline."""
        return [t for t in self if not isinstance(t, Technique) or t.changes_layers]

    @property
    def per_image(self) -> bool:
        """Whether the denoiser is told something about each picture."""
        return any(t.per_image for t in self.all(Technique))

    @property
    def guide(self) -> Technique | None:
        """The technique that makes a prediction of two, if there is one."""
        return next((t for t in self.all(Technique) if t.guides), None)

    def arrive(self, t: float) -> Sequence[float]:
        """Timesteps from where a row is noised down to ``t``, where it is read; ``(t,)`` without steps."""
        return max((technique.arrive(t) for technique in self.all(Technique)), key=len, default=(t,))

    def calls(self) -> float:
        """Denoiser calls (what runs beside one counts by its share) for one row that is read after its steps."""
        techniques = self.all(Technique)
        steps = sum(t.before for t in techniques) * (2 if self.guide else 1)
        return (steps + 1) * (1 + sum(t.passes for t in techniques))

    def content(self) -> list[dict[str, object]]:
        """As a recipe holds them.

        Raises:
            InvalidValueError: If one is of your own making, which a recipe cannot name.
        """
        techniques = self.all(Technique)
        if len(techniques) < len(self):
            raise InvalidValueError(f"A recipe cannot hold a technique of your own making ({self.label}).")
        return [t.model_dump() for t in techniques]

    def check_reading(self) -> None:
        """
        Raises:
            InvalidValueError: If a technique changes predictions alone, and there are no steps before the reading.
        """
        if self.guide and not any(t.before for t in self.all(Technique)):
            raise InvalidValueError(
                f"{self.guide.label} changes predictions, not the one call that reads features: add denoise-from with "
                "steps, or leave it out."
            )


#: Whatever stands for a combination; nothing is the base.
Combinable = Combination | Technique | Custom | Iterable[Technique | Custom] | None


def technique_key(technique: Technique | Custom) -> str:
    """Equal for techniques that do the same."""
    return technique.key if isinstance(technique, Technique) else f"{type(technique).__qualname__}:{id(technique)}"
