"""``diffeat recipes``."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from diffeat.cli.command import refuse

if TYPE_CHECKING:
    from diffeat.extraction import Recipe


def recipes(
    ctx: typer.Context,
    name: Annotated[str | None, Argument(help="Print this recipe as YAML, with its notes, to copy and change.")] = None,
    schema: Annotated[bool, Option("--schema", help="Print the JSON schema of recipe files.")] = False,
) -> None:
    """List the recipes that come with the package, or print one.

    A recipe says which activations are read out of which model, at which noise levels, and how a picture is brought to
    the model's size. It is a YAML file: print one, change it, and give the file to --recipe.

    Example:
        diffeat recipes dift-sd21 > mine.yaml
    """
    from diffeat.extraction import Recipe, preset_names
    from diffeat.extraction.recipe import preset_file

    if name is not None:
        refuse(ctx, ["schema"], "a recipe is printed")
        recipe, file = Recipe.load(name), preset_file(name)
        typer.echo(file.read_text(encoding="utf-8") if file else recipe.to_yaml(), nl=False)
        return
    if schema:
        import json
        from functools import reduce
        from operator import or_

        from pydantic import TypeAdapter

        kinds: Any = reduce(or_, Recipe.KINDS.values())
        typer.echo(json.dumps(TypeAdapter(kinds).json_schema(), indent=2))
        return

    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    console = Console()
    for system, names in groupby(preset_names(), key=lambda preset: preset.partition("-")[0]):
        console.rule(Text(system, "bold"), align="left")
        for preset in names:
            recipe = Recipe.load(preset)
            console.print(Text(preset, "cyan"), crop=False, no_wrap=True, overflow="ignore")
            console.print(Padding(Text(f"{facts(recipe)}. {recipe.description}", "dim"), (0, 0, 0, 4)))


def facts(recipe: Recipe) -> str:
    """Model, timesteps, draws and activations, as far as there are any."""
    from diffeat.extraction import Joined, Reading

    if isinstance(recipe, Joined):
        return " + ".join(part.name for part in recipe.parts)
    if not isinstance(recipe, Reading):
        return str(getattr(recipe, "model", recipe.name))
    path, count = recipe.trajectory, len(recipe.activations)
    when = f"t={','.join(f'{t:g}' for t in path.timesteps)}, {path.draws} draw{'s' * (path.draws > 1)}"
    if path.stepped:
        when = f"{path.kind}, {len(path.read_steps)} of {path.steps} steps"
    return f"{recipe.model}, {when}, {count} activation{'s' * (count > 1)}"
