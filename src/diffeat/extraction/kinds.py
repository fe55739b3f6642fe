"""The other kinds of recipes: vision transformers, baselines, and several recipes as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean, shown
from diffeat.explain import faults
from diffeat.extraction.reading import MOST_PIXELS, Reading, TrainedWeights
from diffeat.extraction.recipe import MOST_PARTS, Recipe, known_kind, labels

_BASELINES = {"rgb": {"name": "RGB patches"}, "daisy": {"name": "DAISY", "stride": 3}}
_PLUS = " + "


class Vision(Recipe, frozen=True):
    """Patch features of a ``transformers`` model; it sees the clean picture and reads no text."""

    kind: Literal["vision"] = "vision"
    model: str = Field(description="hub id or local folder of a transformers vision model with a patch grid")
    layer: int = Field(
        default=-1,
        ge=-1000,
        le=1000,
        description="hidden state: -1 the last layer's, before the final norm; 0 the embeddings",
    )
    size: int | None = Field(
        default=None, ge=1, le=MOST_PIXELS, description="side of the square model image, a multiple of the patch size"
    )
    mode: Literal["squash", "pad"] = "squash"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, data: Any) -> Any:
        return {"name": Path(str(data.get("model", ""))).name, **data} if isinstance(data, dict) else data

    def text_for(self, prompt: str | None) -> str:
        """Always empty."""
        return ""


class Baseline(Recipe, frozen=True):
    """Dense features without a model, to compare with."""

    kind: Literal["baseline"] = "baseline"
    name: Literal["RGB patches", "DAISY"] = "RGB patches"
    longer: int | None = Field(
        default=None, ge=1, le=MOST_PIXELS, description="longer side of the picture; its own size if none"
    )
    stride: int = Field(default=4, ge=1, le=MOST_PIXELS, description="pixels per cell")
    radius: int = Field(default=12, ge=1, le=1000, description="of DAISY: pixels around a cell that it looks at")

    def content(self) -> dict[str, Any]:
        """The settings; the name tells the features."""
        return {**super().content(), "name": self.name}

    def text_for(self, prompt: str | None) -> str:
        """Always empty."""
        return ""


def _pads(recipe: Recipe) -> bool:
    mode = recipe.frame.mode if isinstance(recipe, Reading) else recipe.mode if isinstance(recipe, Vision) else ""
    return mode == "pad"


def _recipe(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    kind = known_kind(part, "part")
    try:
        return kind.model_validate(part)
    except ValidationError as error:
        raise PydanticCustomError("part", "not valid", {"faults": list(faults(error, kind))}) from None


class Joined(Recipe, frozen=True):
    r"""Several recipes as one: their maps side by side.

    * ``concat``: maps are resized bilinearly to the largest grid, in original pixels, and keep their scale (published
      sets over several models).
    * ``weighted``: each map is brought to the grid of the first, made unit length at every position and scaled by
      :math:`\sqrt{w_i}`. With weights that sum to one the cosine of two joined vectors is the weighted mean of the
      single cosines, :math:`\sum_i w_i \cos_i` (SD+DINO, Zhang et al., arXiv:2305.15347).
    * ``convolution``: maps are joined as by ``concat``, or those of a single part taken, and a trained 3×3 convolution
      runs over them (:mod:`diffeat.extraction.joins.convolution`).

    All parts read one text: that of the first part that reads any, unless ``prompt`` and ``template`` say otherwise.
    """

    kind: Literal["joined"] = "joined"
    parts: tuple[Annotated[SerializeAsAny[Recipe], BeforeValidator(_recipe)], ...] = Field(
        description="recipes; in a file also names of presets and paths of files"
    )
    join: Literal["concat", "weighted", "convolution", "apart"] = Field(
        default="concat", description="'apart' leaves the parts' maps as they are, called PART/MAP"
    )
    weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] | None = Field(
        default=None, description="of 'weighted': how much each part counts"
    )
    network: TrainedWeights | None = Field(default=None, description="of 'convolution': its trained weights")

    @field_validator("parts")
    @classmethod
    def _countable(cls, parts: tuple[Recipe, ...]) -> tuple[Recipe, ...]:
        if sum(1 for part in parts for _ in part.single()) > MOST_PARTS:
            raise ValueError(f"a joined recipe has {MOST_PARTS} parts at most")
        return parts

    @model_validator(mode="wrap")
    @classmethod
    def _told_as_the_parts(cls, data: Any, validate: Callable[[Any], Joined]) -> Joined:
        """Text and template are those of the first part that reads text, options for tasks those that all parts have,
        where the recipe names none."""
        joined = validate(data)
        if not joined.parts:
            return joined
        if joined.join != "apart":
            joined = joined.model_copy(update={"parts": tuple(map(_whole, joined.parts))})
        first = next((p for p in joined.parts if p.text_for("text")), joined.parts[0])
        unsaid = [n for n in ("prompt", "template") if getattr(joined, n) == cls.model_fields[n].default]
        update: dict[str, Any] = {name: getattr(first, name) for name in unsaid}
        if not joined.tasks and all(part.tasks == first.tasks for part in joined.parts):
            update["tasks"] = first.tasks
        return joined.model_copy(update=update)

    @model_validator(mode="after")
    def _weighed(self) -> Joined:
        if len(self.parts) < (1 if self.join == "convolution" else 2):
            raise ValueError(f"a joined recipe has two parts or more, got {len(self.parts)}")
        if (self.join == "convolution") != (self.network is not None):
            raise ValueError("join 'convolution' and its trained weights, 'network', belong together")
        if self.join != "weighted" and (padding := [p.name for p in self.single() if _pads(p)]):
            raise ValueError(
                f"join {self.join!r} takes no part that pads pictures ({padding[0]!r}): use mode squash or keep"
            )
        if self.weights is None:
            return self
        if self.join != "weighted":
            raise ValueError("weights belong to join 'weighted'")
        if len(self.weights) != len(self.parts):
            raise ValueError(f"{len(self.parts)} parts take as many weights, got {len(self.weights)}")
        return self

    def varied(self, fields: Mapping[str, Any]) -> Joined:
        """The parts, each with the values; options for tasks are the whole's."""
        own = {name: value for name, value in fields.items() if name.partition(".")[0] == "tasks"}
        of_parts = {name: value for name, value in fields.items() if name not in own}
        return self.replace(parts=tuple(part.varied(of_parts) for part in self.parts), **own)

    def single(self) -> Iterator[Recipe]:
        """Those of all parts."""
        for part in self.parts:
            yield from part.single()

    @property
    def part_labels(self) -> list[str]:
        """What tells parts apart: their names, or numbers from 1 where a name stands for several."""
        return labels([part.name for part in self.parts])

    @property
    def map_names(self) -> tuple[str, ...]:
        if self.join != "apart":
            return ()
        labelled = zip(self.part_labels, self.parts, strict=True)
        return tuple(f"{label}/{name}" for label, part in labelled for name in part.map_names or ("",))

    @property
    def shares(self) -> list[float]:
        """The weights as shares of one."""
        weights = self.weights or (1.0,) * len(self.parts)
        return [w / sum(weights) for w in weights]

    def content(self) -> dict[str, Any]:
        """The parts' fields that change the numbers, and how they are joined."""
        parts = [part.content() for part in self.parts]
        content = {**super().content(), "parts": parts}
        if self.join == "weighted":
            content["weights"] = self.shares
        if self.network is not None:
            content["network"] = self.network.content()
        return content

    def beside(self, folder: Path) -> Joined:
        """With the weights that its parts and itself have there."""
        network = None if self.network is None else self.network.beside(folder)
        return self.replace(parts=tuple(part.beside(folder) for part in self.parts), network=network)


def _whole(part: Recipe) -> Recipe:
    """A part that gives one map."""
    return part.replace(fuse={"kind": "concat"}) if isinstance(part, Reading) and part.fuse is None else part


def join_recipes(parts: Sequence[Recipe], weights: Sequence[float] | None = None) -> Recipe:
    """Several recipes as one, each counting by its weight (see :class:`Joined`); a single one as it is.

    Raises:
        InvalidValueError: Weights that do not fit.
    """
    if len(parts) == 1:
        if weights:
            raise InvalidValueError("Weights belong to several recipes that are joined; leave them out.")
        return parts[0]
    fields = {
        "name": _PLUS.join(p.name for p in parts)[:200],
        "parts": tuple(parts),
        "join": "weighted",
        "weights": None if weights is None else tuple(weights),
    }
    return Joined.from_dict(fields, "joined recipe")


def _written(name: str) -> Recipe | None:
    """``vision:MODEL,layer=11,size=518``, ``baseline:NAME`` and ``a + b``."""
    kind, _, rest = name.partition(":")
    if _PLUS in name and not os.path.exists(name):
        names = name.split(_PLUS)
        if len(names) > MOST_PARTS:
            raise InvalidValueError(f"{len(names)} recipes are joined; {MOST_PARTS} is the most.")
        return join_recipes([Recipe.load(part.strip()) for part in names])
    if kind == "vision" and rest:
        model, *settings = [rest] if os.path.exists(rest) else rest.split(",")
        fields = {name: value for name, _, value in (setting.partition("=") for setting in settings)}
        return Vision.from_dict({"name": Path(rest).name, "model": model, **fields}, f"recipe {shown(name)}")
    if kind == "baseline" and rest:
        if rest not in _BASELINES:
            raise UnknownNameError(f"There is no baseline {shown(rest)}. {did_you_mean(rest, _BASELINES)}")
        return Baseline.from_dict(_BASELINES[rest])
    return None


Recipe.FORMS.append(_written)
