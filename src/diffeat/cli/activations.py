"""``diffeat activations``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.tables import print_table
from diffeat.errors import UnknownNameError, did_you_mean


def activations(
    model: Annotated[str, Argument(help="Alias (sd15, tiny-unet …), hub id or local pipeline folder.")],
    kind: Annotated[list[str] | None, Option(help="Only these kinds; repeatable.")] = None,
    like: Annotated[list[str] | None, Option(help="Only ids or aliases like this glob; repeatable.")] = None,
    json: Annotated[bool, Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List every activation inside a model that can be read, by name.

    Needs the model's configuration only, never its weights. 'depth' is the share of the denoiser's work that is done
    when the activation is ready: a recipe that stops there costs that much.

    Example:
        diffeat activations tiny-unet --like "up_blocks.*"
    """
    from diffeat.activations import Catalogue

    catalogue = Catalogue.from_model(model)
    chosen = list(catalogue)
    if like:
        ids = {a.id for pattern in like for a in catalogue.find(pattern)}
        chosen = [a for a in chosen if a.id in ids]
    if kind:
        kinds = sorted({a.kind for a in catalogue})
        for k in kind:
            if k not in kinds:
                raise UnknownNameError(f"{model} has no activations of kind {k!r}. {did_you_mean(k, kinds)}")
        chosen = [a for a in chosen if a.kind in kind]
    if json:
        import json as json_module

        typer.echo(json_module.dumps([asdict(a) for a in chosen], indent=2))
        return
    rows = [
        [
            a.id,
            a.kind,
            str(a.channels),
            "" if a.grid is None else f"{a.grid[0]}×{a.grid[1]}",
            "" if a.heads is None else str(a.heads),
            f"{a.depth:.0%}",
            "  ".join(a.aliases),
        ]
        for a in chosen
    ]
    print_table(["id", "kind", "channels", "grid", "heads", "depth", "aliases"], rows, text=("id", "kind", "aliases"))
    typer.echo(f"\n{len(chosen)} of {len(catalogue)} activations of {model}.")
