"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diffeat.errors import InvalidValueError, did_you_mean

if TYPE_CHECKING:
    import torch

    from diffeat.extraction import Reading, Recipe

RecipeName = Annotated[
    str, typer.Option("--recipe", "-r", help="Preset name (see `diffeat recipes`) or path of a YAML file.")
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Replaces the recipe's model: alias, hub id or local pipeline folder."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps …; the first accelerator if there is one.")]
Dtype = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16 or float16; bfloat16 on an accelerator, float32 on a CPU."),
]
BatchSize = Annotated[int | None, typer.Option(min=1, help="Rows of one denoiser call; chosen by memory if not given.")]
Prompt = Annotated[str | None, typer.Option(help="Text for all images; goes through the recipe's template.")]
Timestep = Annotated[
    list[float] | None, typer.Option("--timestep", "-t", help="Replaces the recipe's timesteps (0…1000); repeatable.")
]
Draws = Annotated[int | None, typer.Option(min=1, help="Replaces the recipe's number of noise draws.")]
Size = Annotated[
    int | None, typer.Option(min=1, help="Replaces the recipe's picture size (side, or longer side), in pixels.")
]
Seed = Annotated[int | None, typer.Option(help="Replaces the recipe's seed.")]
Activations = Annotated[
    list[str] | None,
    typer.Option("--activation", "-a", help="Replaces the recipe's activations; ids, aliases or globs; repeatable."),
]
Paths = Annotated[list[Path], typer.Argument(help="Pictures and folders of pictures.")]


def parse_dtype(name: str | None) -> torch.dtype | None:
    """The torch dtype of a name.

    Raises:
        InvalidValueError: For any other name.
    """
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name is None:
        return None
    if name not in known:
        raise InvalidValueError(f"No dtype {name!r}. {did_you_mean(name, known)}")
    return known[name]


def changed_recipe(
    recipe: str,
    *,
    model: str | None = None,
    activations: list[str] | None = None,
    timesteps: list[float] | None = None,
    draws: int | None = None,
    size: int | None = None,
    seed: int | None = None,
) -> Reading:
    """The recipe of a diffusion model with what the command line replaces in it.

    Raises:
        InvalidValueError: A recipe of another kind.
    """
    from diffeat.extraction import Reading

    loaded = Reading.load(recipe)
    changes: dict[str, object] = {}
    if model is not None:
        changes["model"] = model
    if activations:
        changes["activations"] = activations
    if timesteps:
        changes["trajectory.timesteps"] = timesteps
    if draws is not None:
        changes["trajectory.draws"] = draws
    if seed is not None:
        changes["seed"] = seed
    if size is not None:
        side = "size" if loaded.frame.mode != "keep" else "shorter" if loaded.frame.shorter else "longer"
        changes[f"frame.{side}"] = size
    return loaded.replace(**changes) if changes else loaded


def any_recipe(recipe: str, **changes: Any) -> Recipe:
    """Like :func:`changed_recipe`; a recipe of another kind as it is.

    Raises:
        InvalidValueError: Changes to a recipe of another kind, which is not changed from here.
    """
    from diffeat.extraction import Reading, Recipe, Vision

    loaded = Recipe.load(recipe)
    if isinstance(loaded, Reading):
        return changed_recipe(recipe, **changes)
    size = changes.pop("size", None)
    if isinstance(loaded, Vision) and size is not None:
        loaded = loaded.replace(size=size)
    elif any(value not in (None, [], ()) for value in (size, *changes.values())):
        raise InvalidValueError(
            f"{recipe!r} is no recipe of a single diffusion model; change its parts in a file of your own."
        )
    return loaded


def make_extractor(
    recipe: Recipe, device: str | None = None, dtype: str | None = None, batch_size: int | None = None
) -> Any:
    """Load the models, telling on standard error what is being loaded."""
    from rich.console import Console

    with Console(stderr=True).status(f"Loading {getattr(recipe, 'model', recipe.name)} …"):
        from diffeat.extraction import load_source

        return load_source(recipe, device=device, dtype=parse_dtype(dtype), batch_size=batch_size)
