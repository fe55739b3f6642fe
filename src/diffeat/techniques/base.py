"""What every technique is: a frozen value that says what to do, does it, and has a null twin of zero strength.

A technique is one class. What a session, a recipe, the command line, a fingerprint and GATE need of it are its fields,
class attributes and the methods below; all have a default that does nothing. To add one, write its file and name the
class in :data:`diffeat.techniques.TECHNIQUES`.

These modules are imported for the help of a command: what needs torch is imported where it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from diffeat.errors import InvalidValueError
from diffeat.explain import InvalidFieldsError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from torch import Tensor

    from diffeat.backbones import Conditioning
    from diffeat.techniques.scene import Desk, Scene

#: Arguments of a denoiser call: tensors, and whatever else the class of the denoiser takes.
Call = dict[str, Any]
#: As the stock pipelines take it: any finite number, negative ones too.
Scale = Annotated[float, Field(allow_inf_nan=False)]


class Technique(BaseModel, frozen=True):
    """A generation technique that puts more about the clean picture into the denoiser, or claims to.

    Techniques are values: they hold settings and no weights, compare by content and go into recipes.
    :class:`~diffeat.techniques.Session` applies them to a backbone and always takes them off again.

    Attributes:
        words: Words of its text forms and the field that each sets: ``lora:FILE`` sets ``path``.
        whole: All that follows the word is the value, commas included; there are no further options.
        usage: Its text forms, as help shows them.
        strength: The field that is proportional to what it does, where there is one.
        once: A combination can hold one.
        passes: Denoiser passes, or shares of one, that it adds to every call.
        changes_layers: Whether :meth:`change_layers` does something.
        replaces_weights: Whether it exchanges weights, before others put layers around them.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    words: ClassVar[Mapping[str, str]]
    whole: ClassVar[bool] = False
    usage: ClassVar[Sequence[str]]
    strength: ClassVar[str | None] = None
    once: ClassVar[bool] = True
    passes: ClassVar[float] = 0.0
    changes_layers: ClassVar[bool] = False
    replaces_weights: ClassVar[bool] = False

    kind: str

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidFieldsError(type(self).__name__, error, type(self)) from None

    @model_serializer(mode="wrap")
    def _with_kind(self, plain: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {"kind": self.kind, **plain(self)}

    # ---- what it is

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

    def null(self) -> Technique:
        """The twin of zero strength: runs all of the technique's machinery and must equal the base bit for bit."""
        return self.at(0.0)

    def at(self, strength: float) -> Self:
        """The same technique at another strength.

        Raises:
            InvalidValueError: If it has no strength, or not this one.
        """
        if self.strength is None:
            raise InvalidValueError(f"{self.label} has no strength to change.")
        return type(self)(**{**dict(self), self.strength: strength})

    @property
    def per_image(self) -> bool:
        """Whether it tells the denoiser something about each picture (its shuffled twin tells about another one)."""
        return False

    def files(self) -> Sequence[str]:
        """Weights that it names: files or folders on disk, else hub ids."""
        return ()

    # ---- what it does, in this order

    @classmethod
    def change_layers(cls, desk: Desk, techniques: Sequence[Any]) -> bool:
        """Change layers for all techniques of the class together (the session puts the pipeline back).

        Returns:
            Whether a text encoder is changed.
        """
        return False

    def load(self, desk: Desk) -> None:
        """Load what it brings.

        Raises:
            ModelError: If it cannot be loaded, or does not belong to the model.
        """

    def write(self, desk: Desk, scene: Scene) -> str | None:
        """The text of a picture; ``None`` keeps the one it has."""

    def tell(self, desk: Desk, scenes: Sequence[Scene]) -> Tensor | None:
        """What :meth:`steer` is given about pictures of one size, a row for each."""

    def steer(self, desk: Desk, inputs: Call, told: Tensor) -> Call:
        """The arguments of a denoiser call, with what it adds; only asked where something was told."""
        return inputs

    def arrive(self, t: float) -> Sequence[float]:
        """Timesteps from where the latent is noised down to ``t``, where features are read."""
        return (t,)

    @property
    def before(self) -> int:
        """Denoiser calls before the one in which features are read."""
        return 0

    # ---- predictions that are made of two, under the picture's text and another one

    @property
    def guides(self) -> bool:
        """Whether it makes them: see :meth:`against` and :meth:`guide`."""
        return False

    def against(self, desk: Desk, conditioning: Conditioning, **options: object) -> Conditioning:
        """The other text for rows of these conditions; ``options`` are those of the family's conditioning."""
        return conditioning

    def guide(self, other: Tensor, own: Tensor) -> Tensor:
        """One prediction of two."""
        return own

    def untold(self, told: Tensor) -> Tensor:
        """What it tells beside the other text: the same by default."""
        return told


@runtime_checkable
class Custom(Protocol):
    """A technique of your own that edits the pipeline in place, e.g. adds hooks or exchanges layers.

    What ``apply`` does to modules, hooks, attributes and weights is undone by diffeat; ``label`` names it.
    """

    label: str

    def apply(self, pipeline: DiffusionPipeline) -> None: ...
    def null(self) -> Custom | Technique: ...
