"""What every technique is: a frozen value that says what to do, and its null twin that does it with zero strength."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from diffeat.errors import InvalidValueError


class Technique(BaseModel):
    """A generation technique that puts more about the clean picture into the denoiser, or claims to.

    Techniques are values: they hold settings and no weights, compare by content and go into recipes.
    :class:`~diffeat.techniques.Session` applies them to a backbone and always takes them off again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    kind: str

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            lines = (f"{'.'.join(str(p) for p in e['loc']) or 'value'}: {_said(e)}" for e in error.errors())
            raise InvalidValueError(f"{type(self).__name__} is not valid: {'; '.join(lines)}.") from None

    @model_serializer(mode="wrap")
    def _with_kind(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"kind": self.kind, **plain(self)}

    @abstractmethod
    def null(self) -> Technique:
        """The twin of zero strength: runs all of the technique's machinery and must equal the base bit for bit."""

    def at(self, strength: float) -> Technique:
        """The same technique at another strength.

        Raises:
            InvalidValueError: If it has no strength, or not this one.
        """
        raise InvalidValueError(f"{self.label} has no strength to change.")

    @property
    def label(self) -> str:
        """Short name for tables."""
        return self.kind

    @property
    def key(self) -> str:
        """Equal for techniques that do the same."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Technique) and self.key == other.key


@runtime_checkable
class Custom(Protocol):
    """A technique of your own that edits the pipeline in place, e.g. adds hooks or exchanges layers.

    What ``apply`` does to modules, hooks, attributes and weights is undone by diffeat; ``label`` names it.
    """

    label: str

    def apply(self, pipeline: Any) -> None: ...
    def null(self) -> Custom | Technique: ...


def _said(error: Any) -> str:
    text = error["msg"].removeprefix("Value error, ")
    return text if isinstance(error.get("input"), dict) else f"{text} (got {error.get('input')!r})"
