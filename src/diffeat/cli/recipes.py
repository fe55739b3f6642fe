"""``diffeat recipes``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from diffeat.extraction import Reading


def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe as YAML, to copy and change.")] = None,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipe files.")] = False,
) -> None:
    """List the recipes that come with the package, or print one.

    A recipe says which activations are read out of which model, at which noise levels, and how a picture is brought to
    the model's size. It is a YAML file: print one, change it, and give the file to --recipe.
    """
    from diffeat.extraction import Joined, Reading, Recipe, preset_names

    if schema:
        import json

        typer.echo(json.dumps(Reading.model_json_schema(), indent=2))
        return
    if name is not None:
        typer.echo(Recipe.load(name).to_yaml(), nl=False)
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("recipe", "model", "t", "draws", "activations", "description"):
        table.add_column(title)
    for preset in preset_names():
        recipe = Recipe.load(preset)
        model, when, draws, activations = "", "", "", ""
        if isinstance(recipe, Reading):
            model, when = recipe.model, _when(recipe)
            draws, activations = str(recipe.trajectory.draws), str(len(recipe.activations))
        elif isinstance(recipe, Joined):
            activations = " + ".join(part.name for part in recipe.parts)
        table.add_row(f"[cyan]{preset}[/]", model, when, draws, activations, recipe.description)
    Console().print(table)


def _when(recipe: Reading) -> str:
    path = recipe.trajectory
    if not path.stepped:
        return ", ".join(f"{t:g}" for t in path.timesteps)
    return f"{path.kind}, {len(path.read_steps)} of {path.steps} steps"
