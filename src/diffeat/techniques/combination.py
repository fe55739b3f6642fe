"""Several techniques at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from diffeat.errors import InvalidValueError
from diffeat.techniques.base import Custom, Technique
from diffeat.techniques.controlnet import ControlNet
from diffeat.techniques.denoise_from import DenoiseFrom
from diffeat.techniques.guidance import Guidance
from diffeat.techniques.ip_adapter import IPAdapter
from diffeat.techniques.lora import LoRA
from diffeat.techniques.prompt import Prompt

T = TypeVar("T")

_ONCE = (Prompt, Guidance, DenoiseFrom, IPAdapter)


class Combination:
    """Techniques that act together; equal for equal techniques in whatever order.

    Args:
        techniques: None is the base. ControlNets add up, as do LoRAs; of the others there can be one.

    Raises:
        InvalidValueError: If a kind comes twice that cannot.
    """

    def __init__(self, techniques: Iterable[Technique | Custom] = ()) -> None:
        self.techniques: tuple[Any, ...] = tuple(techniques)
        for item in self.techniques:
            if not isinstance(item, (Technique, Custom)):
                raise InvalidValueError(
                    f"{item!r} is no technique: use Prompt, ControlNet, LoRA, IPAdapter, Guidance or DenoiseFrom, or "
                    "an object with label, apply(pipeline) and null()."
                )
        for kind, count in Counter(type(t) for t in self.techniques if isinstance(t, _ONCE)).items():
            if count > 1:
                raise InvalidValueError(
                    f"{count} techniques of the kind {kind.__name__} are combined; there can be one."
                )

    @classmethod
    def of(cls, value: Combination | Technique | Custom | Iterable[Technique | Custom] | None) -> Combination:
        """A combination of whatever stands for one."""
        if isinstance(value, Combination):
            return value
        if value is None:
            return cls()
        return cls([value]) if isinstance(value, (Technique, Custom)) else cls(value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.techniques)

    def __len__(self) -> int:
        return len(self.techniques)

    def __and__(self, other: Any) -> Combination:
        return Combination([*self, *Combination.of(other)])

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
    def layers(self) -> list[Any]:
        """The techniques that change layers of the pipeline."""
        return [t for t in self if isinstance(t, (LoRA, IPAdapter)) or not isinstance(t, Technique)]

    def arrive(self, t: float) -> Sequence[float]:
        """Timesteps from where a row is noised down to ``t``, where it is read; ``(t,)`` without steps."""
        start = self.one(DenoiseFrom)
        return (t,) if start is None else start.timesteps(t)

    def calls(self) -> float:
        """Denoiser calls (a ControlNet's pass counts 0.4 of one) for one row that is read after its steps."""
        steps = self.one(DenoiseFrom)
        guided = self.one(Guidance)
        before = steps.steps * (2 if guided is not None and guided.scale != 1 else 1) if steps else 0
        return (before + 1) * (1 + 0.4 * len(self.all(ControlNet)))


def technique_key(technique: Any) -> str:
    """Equal for techniques that do the same."""
    return technique.key if isinstance(technique, Technique) else f"{type(technique).__qualname__}:{id(technique)}"
