"""How a model is written: a name, hub id, folder or file, and what of it, as ``sd15,variant=fp16``."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields

from diffeat.errors import InvalidValueError, did_you_mean, shown


@dataclass(frozen=True)
class ModelName:
    """A model as it is written.

    Attributes:
        name: A name of diffeat, a hub id, a folder or a file.
        variant: Of its weights, such as ``"fp16"``.
        revision: Of the hub repository.
        base: Of a single file: the model whose configurations and tokenizers belong to it.

    Example:
        >>> ModelName.parse("sd15,variant=fp16")
        ModelName(name='sd15', variant='fp16', revision=None, base=None)
    """

    name: str
    variant: str | None = None
    revision: str | None = None
    base: str | None = None

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """A model from its text; refused if it says something that is not known."""
        name, *rest = text.split(",")
        if not rest or os.path.lexists(text) or "=" not in rest[0]:
            return cls(text)
        known = [field.name for field in fields(cls)][1:]
        said: dict[str, str] = {}
        for option in rest:
            key, _, value = option.strip().partition("=")
            if key not in known or not value or key in said:
                raise InvalidValueError(
                    f"The model {shown(text)} says {shown(option)}. Write it as NAME,variant=fp16,revision=… "
                    f"{did_you_mean(key, known)}".strip()
                )
            said[key] = value
        return cls(name, **said)

    def __str__(self) -> str:
        said = ((field.name, getattr(self, field.name)) for field in fields(self)[1:])
        return ",".join([self.name, *(f"{name}={value}" for name, value in said if value is not None)])
