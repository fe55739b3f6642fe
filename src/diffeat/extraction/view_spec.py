"""Views of a recipe: what each of several readings of a picture does differently."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from diffeat.techniques.union import Techniques

if TYPE_CHECKING:
    from diffeat.extraction.recipe import Recipe


class ViewSpec(BaseModel):
    """One view; what it leaves out is the recipe's own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    techniques: Techniques | None = Field(None, description="in place of the recipe's techniques")
    prompt: str | None = None
    timesteps: tuple[float, ...] | None = None
    seed: int | None = None
    activations: tuple[Any, ...] | None = None
    append: bool = Field(False, description="put beside the mixture of the others as it is, e.g. attention features")


def view_recipes(recipe: Recipe) -> list[Recipe]:
    """A whole recipe for each view, without fusion."""
    found = []
    for i, view in enumerate(recipe.views or ()):
        changes: dict[str, Any] = {"views": None, "fuse": None, "name": f"{recipe.name}/{view.name or i + 1}"}
        for field in ("techniques", "prompt", "seed", "activations"):
            value = getattr(view, field)
            if value is not None:
                plain = field == "techniques"
                changes[field] = [t.model_dump() for t in value] if plain else value
        if view.timesteps is not None:
            changes["trajectory.timesteps"] = view.timesteps
        found.append(recipe.replace(**changes))
    return found


def check_views(recipe: Recipe) -> None:
    """What views and their fusion ask of each other.

    Raises:
        ValueError: Said in the words of the recipe's fields.
    """
    kind = recipe.fuse.kind if recipe.fuse is not None else None
    if recipe.views is None:
        if kind == "amalgamation":
            raise ValueError("fuse 'amalgamation' mixes views: name at least two under 'views'")
        return
    if kind not in ("concat", "mean", "amalgamation"):
        raise ValueError("a recipe with views needs fuse 'concat', 'mean' or 'amalgamation'")
    if len([v for v in recipe.views if not v.append]) < 1:
        raise ValueError("give at least one view that is not appended")
    if recipe.refine is not None or recipe.trajectory.kind not in ("noise", "clean"):
        raise ValueError("views read at noise levels (kind 'noise' or 'clean') and are not refined")
