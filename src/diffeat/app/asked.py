"""What the browser asks for: values with bounds, never paths, functions or files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean, shown
from diffeat.extraction import Reading, Recipe

Name = Annotated[str, Field(max_length=300)]
Id = Annotated[str, Field(max_length=32)]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]
Ids = Annotated[list[Id], Field(min_length=1, max_length=24)]
#: Of points, boxes and classes.
Label = Annotated[str, Field(min_length=1, max_length=80)]
Point = tuple[Number, Number]
Box = tuple[Number, Number, Number, Number]


class Body(BaseModel):
    """The body of a request."""

    model_config = ConfigDict(extra="forbid")


class Asked(Body):
    """Which features: a recipe that is offered, changed.

    Attributes:
        recipe: Its name; the first that is offered if empty.
        activations: Ids, aliases or globs in place of the recipe's.
        timesteps: In place of the recipe's.
        draws: Of noise, averaged.
        prompt: Goes through the recipe's template.
        size: The longer side of the model's image in pixels.
    """

    recipe: Name = ""
    activations: list[Name] = Field(default_factory=list, max_length=24)
    timesteps: list[Number] = Field(default_factory=list, max_length=24)
    draws: int | None = Field(default=None, ge=1, le=64)
    prompt: str | None = Field(default=None, max_length=2000)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    size: int | None = Field(default=None, ge=8, le=2048)

    def changes(self) -> dict[str, Any]:
        """Fields of a recipe, as the browser changes them; the text apart."""
        given = {
            "activations": tuple(self.activations) or None,
            "trajectory.timesteps": tuple(self.timesteps) or None,
            "trajectory.draws": self.draws,
            "seed": self.seed,
            "size": self.size,
        }
        return {field: value for field, value in given.items() if value is not None}

    def of(self, offered: Mapping[str, Recipe]) -> Recipe:
        """The recipe that is asked for.

        Raises:
            UnknownNameError: It is not offered.
            InvalidValueError: The changes do not suit it.
        """
        name = self.recipe or next(iter(offered))
        if name not in offered:
            raise UnknownNameError(f"Recipe {shown(name)} is not offered here. {did_you_mean(name, offered)}".rstrip())
        recipe, changes = offered[name], self.changes()
        if not isinstance(recipe, Reading):
            if changes or self.prompt is not None:
                raise InvalidValueError(f"{name!r} is taken as it is: only recipes of one diffusion model are changed.")
            return recipe
        if "size" in changes:
            side = "frame.size" if recipe.frame.mode != "keep" else "frame.longer"
            changes[side] = changes.pop("size")
            changes |= {"frame.shorter": None} if side == "frame.longer" else {}
        if "activations" in changes and (recipe.fuse is not None or recipe.views is not None):
            changes |= {"fuse": None, "views": None}
        if self.prompt is not None:
            changes["prompt"] = recipe.text_for(self.prompt) if self.prompt else ""
        return recipe.replace(**changes) if changes else recipe


class Features(Body):
    """Features of one picture."""

    asked: Asked = Asked()
    picture: Id


class Maps(Body):
    """One map of several pictures.

    Attributes:
        map: Its name, where a picture has several.
    """

    asked: Asked = Asked()
    map: Name | None = None
    pictures: Ids


class Click(Body):
    """A point of a picture, sought in pictures.

    Attributes:
        point: (x, y) in pixels of the upright picture.
        pictures: Where it is sought.
        heat: Whether similarities with every pixel are wanted, not the best place alone.
    """

    asked: Asked = Asked()
    map: Name | None = None
    source: Id
    point: tuple[Number, Number]
    pictures: Ids
    heat: bool = True
