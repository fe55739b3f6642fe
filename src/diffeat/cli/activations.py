"""``diffeat activations``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from diffeat.errors import UnknownNameError, did_you_mean


def activations(
    model: Annotated[str, typer.Argument(help="Alias (sd15, tiny-unet …), hub id or local pipeline folder.")],
    kind: Annotated[list[str] | None, typer.Option(help="Only these kinds; repeatable.")] = None,
    like: Annotated[list[str] | None, typer.Option(help="Only ids or aliases like this glob; repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List every activation inside a model that can be read, by name.

    Needs the model's configuration only, never its weights. 'depth' is the share of the denoiser's work that is done
    when the activation is ready: a recipe that stops there costs that much.
    """
    from diffeat.activations import Catalogue

    catalogue = Catalogue.from_model(model)
    found = list(catalogue)
    if like:
        wanted = {a.id for pattern in like for a in catalogue.find(pattern)}
        found = [a for a in found if a.id in wanted]
    if kind:
        kinds = sorted({a.kind for a in catalogue})
        for k in kind:
            if k not in kinds:
                raise UnknownNameError(f"{model} has no activations of kind {k!r}. {did_you_mean(k, kinds)}")
        found = [a for a in found if a.kind in kind]
    if json:
        import json as json_module

        typer.echo(json_module.dumps([asdict(a) for a in found], indent=2))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("id", style="cyan", overflow="fold")
    table.add_column("kind")
    table.add_column("channels", justify="right")
    table.add_column("grid", justify="right")
    table.add_column("heads", justify="right")
    table.add_column("depth", justify="right")
    table.add_column("aliases", style="dim", overflow="fold")
    for a in found:
        grid = "" if a.grid is None else f"{a.grid[0]}×{a.grid[1]}"
        table.add_row(
            a.id,
            a.kind,
            str(a.channels),
            grid,
            "" if a.heads is None else str(a.heads),
            f"{a.depth:.0%}",
            "  ".join(a.aliases),
        )
    console = Console()
    console.print(table)
    console.print(f"\n{len(found)} of {len(catalogue)} activations of {model}.", style="dim")
