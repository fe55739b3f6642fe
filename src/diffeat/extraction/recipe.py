"""What a source reads, as a file that a user can open, understand and change.

There are several kinds of recipes, told apart by their field ``kind``: ``reading`` (a diffusion model; the kind where
none is said), ``vision`` (a vision transformer), ``baseline`` (no model) and ``joined`` (several of these). All are
frozen and validated; unknown fields are errors. A recipe's hash covers everything that changes the numbers and nothing
else, so it can key stored features.

A recipe file may come from anyone. It is data: no larger than it needs to be, and it runs no code unless that is
allowed (see :mod:`diffeat.techniques.named`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from diffeat.errors import InvalidValueError, UnknownNameError, clipped, did_you_mean, shown
from diffeat.explain import InvalidFieldsError
from diffeat.features import Whole
from diffeat.files import read_text, write_files
from diffeat.geometry import FrameSpec
from diffeat.notebook import Displayed, Html, folded, paragraph
from diffeat.techniques.named import code_allowed

#: Counts changes in what a field means; part of every hash.
VERSION = 2
#: Joined recipes whose parts are being read.
_OUTER: ContextVar[tuple[Path, ...]] = ContextVar("outer recipes", default=())
#: What a recipe may hold: bytes of its file, values, and how deep they are nested (YAML aliases count each time).
_BYTES, _VALUES, _DEPTH = 2**17, 20_000, 32
#: Recipes that one can join, those of joined parts included.
MOST_PARTS = 64
#: Fields that change no feature.
_TOLD = {"name", "description", "source", "precision", "tasks"}
_FOLDER = Path(__file__).parent.parent / "recipes"


def _moderate(value: float | int | str | bool) -> float | int | str | bool:
    if not isinstance(value, str) and abs(value) > 1e6:
        raise ValueError("must lie between -1000000 and 1000000")
    return value


#: A value that goes to a model as it is.
Option = Annotated[Annotated[float, Field(allow_inf_nan=False)] | int | str | bool, AfterValidator(_moderate)]


class Part(BaseModel, frozen=True):
    """A part of a recipe."""

    model_config = ConfigDict(extra="forbid")


class Recipe(Displayed, Part, frozen=True):
    """What all kinds of recipes share; each kind is a subclass with a ``kind`` of its own."""

    #: The kinds, by name.
    KINDS: ClassVar[dict[str, type[Recipe]]] = {}
    #: Other ways to write a recipe than a preset or a file: each takes what was written, and gives the recipe or None.
    FORMS: ClassVar[list[Callable[[str], Recipe | None]]] = []

    kind: str
    name: str = Field(default="unnamed", max_length=200)
    description: str = ""
    source: str = Field(default="", description="paper and section the numbers come from")
    precision: Literal["float32", "bfloat16", "float16", "mixed float16"] | None = Field(
        default=None, description="in which the original computes; changes nothing here (--dtype does), reports tell it"
    )
    prompt: str = Field(default="", description="text used where the caller gives none")
    template: str = Field(default="{}", description="wraps a caller's text, e.g. 'a photo of a {}'")
    tasks: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="options for tasks by the task's name, such as propagation: {radius: 15}; given ones win",
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        Recipe.KINDS[cls.model_fields["kind"].default] = cls

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.template.count("{}") != 1:
            raise ValueError(f"template {self.template!r} must hold '{{}}' once, where the caller's text goes")
        return self

    def __str__(self) -> str:
        return repr(self)

    def _facts(self) -> tuple[str, Mapping[str, object]]:
        models = " + ".join(dict.fromkeys(str(getattr(part, "model", part.name)) for part in self.single()))
        return self.name, {"model": models, "hash": self.hash[:12]}

    def _details(self) -> Iterator[Html]:
        if self.description:
            yield paragraph(self.description)
        yield folded("YAML", self.to_yaml())

    @classmethod
    def load(cls, name: str | Path | Recipe, *, allow_code: bool = False) -> Self:
        """A recipe by what a user writes for it.

        Args:
            name: A preset, the path of a YAML file or of a layer file of Generic Diffusion Feature, ``vision:MODEL``
                (or ``vision:MODEL,layer=11,size=518``), ``baseline:rgb``, ``baseline:daisy``, ``hub:OWNER/NAME``,
                several of these joined by `` + `` (with equal weights), or a recipe as it is.
            allow_code: Import functions that the file names (``module:function``); their modules are run.

        Raises:
            UnknownNameError: If it is none of these; names the nearest presets.
            InvalidValueError: If the file is not a valid recipe (names the field and what it takes), or of another kind
                than the class that it is loaded by.
        """
        with code_allowed(allow_code):
            recipe = name if isinstance(name, Recipe) else _load(str(name))
        if not isinstance(recipe, cls):
            raise InvalidValueError(
                f"{recipe.name!r} is a {recipe.kind} recipe; this takes a {cls.model_fields['kind'].default} recipe of "
                "a single diffusion model."
            )
        return recipe

    @classmethod
    def from_yaml(cls, text: str, origin: str = "recipe", *, allow_code: bool = False) -> Self:
        """Parse and validate YAML text.

        Raises:
            InvalidValueError: If the text is not YAML or not a valid recipe.
        """
        return cls.from_dict(read_yaml(text, f"The {origin}"), origin, allow_code=allow_code)

    @classmethod
    def from_dict(cls, data: Any, origin: str = "recipe", *, allow_code: bool = False) -> Self:
        """Validate a mapping; on :class:`Recipe` itself, of whatever kind it is.

        Args:
            origin: Where it comes from, for messages.
            allow_code: As in :meth:`load`.

        Raises:
            InvalidValueError: Naming each wrong field, what it got and the nearest valid field.
        """
        if not isinstance(data, dict):
            raise InvalidValueError(f"The {origin} must be a mapping of fields, got {type(data).__name__}.")
        _check_extent(data, origin)
        kind = known_kind(data, origin) if cls is Recipe else cls
        try:
            with code_allowed(allow_code):
                return kind.model_validate(data)  # pyright: ignore[reportReturnType]
        except ValidationError as error:
            raise InvalidFieldsError(f"The {origin}", error, kind) from None

    def replace(self, **changes: Any) -> Self:
        """A copy with other values, validated anew. Nested fields go by dots: ``**{"trajectory.draws": 4}``.

        Raises:
            InvalidValueError: A field that there is not, or a value that it does not take.
        """
        data = dict(self)
        for key, value in changes.items():
            *parents, leaf = key.split(".")
            place = data
            for parent in parents:
                inner = place.get(parent)
                plain = inner.to_dict() if isinstance(inner, FrameSpec) else inner
                if plain is not None and not isinstance(plain, (dict, Part)):
                    raise InvalidValueError(f"{shown(key)} cannot be changed: {shown(parent)} has no fields.")
                place[parent] = dict(plain or {})
                place = place[parent]
            place[leaf] = value
        return type(self).from_dict(data, origin=f"changed recipe {self.name!r}")

    @model_serializer(mode="wrap")
    def _with_kind(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The kind is said wherever it is not told by the fields."""
        return (
            plain(self) if self.kind in ("reading", "joined") else {"kind": self.kind, "name": self.name, **plain(self)}
        )

    def varied(self, fields: Mapping[str, Any]) -> Self:
        """A copy with other values, wherever a recipe that it joins has them."""
        return self.replace(**fields)

    def to_yaml(self) -> str:
        """YAML text that :meth:`from_yaml` reads back to an equal recipe."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the recipe as a YAML file.

        Args:
            force: Whether a file of that name may be replaced.

        Raises:
            InvalidValueError: The file is there already, or cannot be written.
        """
        write_files(Path(path).parent, [Path(path).name], [self.to_yaml()], force=force)

    def content(self) -> dict[str, Any]:
        """The fields that change the numbers, as plain JSON data."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        changing = {name: value for name, value in fields.items() if name not in _TOLD}
        return {"version": VERSION, "kind": self.kind, **changing}

    @property
    def hash(self) -> str:
        """SHA-256 (hex) of :meth:`content`: equal for recipes that give equal features."""
        text = json.dumps(self.content(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of the maps of a picture where they are several, as far as the recipe tells: a glob stands for one."""
        return ()

    def single(self) -> Iterator[Recipe]:
        """The recipes that it joins, or itself."""
        yield self

    def text_for(self, prompt: str | None) -> str:
        """The text that the model reads for a caller's (``None`` or empty: the recipe's own)."""
        if not isinstance(prompt, str | None):
            raise InvalidValueError(f"A prompt is a text or None, not {shown(prompt)}.")
        if isinstance(prompt, Whole):
            return str(prompt)
        return self.template.replace("{}", prompt) if prompt else self.prompt

    def beside(self, folder: Path) -> Self:
        """The recipe with what it names by relative paths found beside its file."""
        return self


def labels(names: Sequence[str]) -> list[str]:
    """What tells things apart: their names, or numbers from 1 where a name is missing or stands for several."""
    return [n if n and names.count(n) == 1 else str(i) for i, n in enumerate(names, 1)]


def known_kind(data: dict[str, Any], origin: str) -> type[Recipe]:
    """The kind of a recipe's fields: ``parts`` are those of a joined one."""
    names = [str(key)[:40] for key in data]
    joined = "parts" in names or ("model" not in names and difflib.get_close_matches("parts", names, cutoff=0.7))
    name = data.get("kind", "joined" if joined else "reading")
    if isinstance(name, str) and name in Recipe.KINDS:
        return Recipe.KINDS[name]
    raise InvalidValueError(
        f"The {origin} is of no known kind: {shown(name)}. {did_you_mean(clipped(str(name)), Recipe.KINDS)}".rstrip()
    )


def preset_names() -> list[str]:
    """Names of the recipes that come with the package, sorted."""
    return sorted([*(p.stem for p in _FOLDER.glob("*.yaml")), *_variants()])


@cache
def _variants() -> dict[str, tuple[str, dict[str, Any]]]:
    """Presets that are others on a data set, in files of their own: name of the other, and fields."""
    variants = {}
    for file in sorted((_FOLDER / "datasets").glob("*.yaml")):
        for dataset, fields in read_yaml(file.read_text(encoding="utf-8"), str(file)).items():
            variants |= {f"{base}-{dataset}": (base, fields) for base in fields.pop("of")}
    return variants


def preset_file(name: str) -> Path | None:
    """The file that a preset is written in, with notes; of others, and of a preset that is another's variant, none."""
    return next((file for file in _FOLDER.glob("*.yaml") if file.stem == name), None)


def _load(name: str) -> Recipe:
    if name in _variants():
        base, fields = _variants()[name]
        recipe = Recipe.load(base).varied({field: value for field, value in fields.items() if field != "description"})
        return recipe.replace(name=name, description=f"{recipe.description}, {fields['description']}")
    preset = preset_file(name)
    path = preset or Path(name)
    recipe = None if preset else next((r for form in Recipe.FORMS if (r := form(name)) is not None), None)
    if recipe is not None:
        return recipe
    if preset or os.path.exists(path):
        return _read(path, f"preset {name!r}" if preset else f"recipe file {shown(name)}")
    what = "recipe file" if path.suffix in {".yaml", ".yml"} else "recipe"
    prefix, colon, _ = name.partition(":")
    hint = did_you_mean(name, preset_names()) or "List the presets with: diffeat recipes."
    if colon and (near := difflib.get_close_matches(prefix[:40], ("vision", "baseline", "hub"), 1)):
        hint = f"Did you mean '{near[0]}:…'?"
    raise UnknownNameError(f"There is no {what} {shown(name)}. {hint} A path to a YAML file works too.")


def _read(path: Path, origin: str) -> Recipe:
    data = read_yaml(read_text(path, "recipe file", _BYTES), f"The {origin}")
    if isinstance(data, dict) and isinstance(parts := data.get("parts"), list):
        if path.resolve() in (outer := _OUTER.get()):
            raise InvalidValueError(f"The {origin} is a part of itself; recipes are joined without circles.")
        if len(outer) >= _DEPTH or len(parts) > MOST_PARTS:
            raise InvalidValueError(f"The {origin} joins more recipes than {MOST_PARTS}, or through too many files.")
        token = _OUTER.set((*outer, path.resolve()))
        try:
            data = {"name": path.stem[:200], **data, "parts": [_part(part, path.parent) for part in parts]}
        finally:
            _OUTER.reset(token)
    return Recipe.from_dict(data, origin).beside(path.parent)


def _part(part: Any, folder: Path) -> Any:
    """A part that is named: a file beside the joined recipe's, or what :meth:`Recipe.load` takes."""
    if not isinstance(part, str):
        return part
    return Recipe.load(folder / part if os.path.isfile(folder / part) else part)


def read_yaml(text: str, what: str) -> Any:
    """Plain data from YAML text without tags of its own."""
    try:
        return yaml.safe_load(text)
    except Exception as error:  # PyYAML raises whatever it runs into: dates and numbers that are none, deep nesting
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, yaml.YAMLError) else str(error)
        raise InvalidValueError(f"{what} is not valid YAML: {clipped(reason, 200)}") from None


def _check_extent(data: Any, origin: str) -> None:
    """Refuse more values, or deeper ones, than a recipe needs."""
    layer, count = [data], 0
    for _ in range(_DEPTH):
        inner: list[Any] = []
        for value in layer:
            if isinstance(value, (dict, list, tuple)):
                inner += value.values() if isinstance(value, dict) else value
                if count + len(inner) > _VALUES:
                    raise InvalidValueError(f"The {origin} holds more than {_VALUES:,} values.")
        if not inner:
            return
        layer, count = inner, count + len(inner)
    raise InvalidValueError(f"The {origin} is nested deeper than {_DEPTH} levels.")
