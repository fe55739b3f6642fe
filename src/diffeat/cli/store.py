"""``diffeat store``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option


def store(
    folder: Annotated[Path, Argument(help="Folder of a feature store.")],
    verify: Annotated[bool, Option("--verify", help="Read everything and check it.")] = False,
) -> None:
    """Show what a feature store holds, or check that it is whole.

    Example:
        diffeat samples photos
        diffeat extract photos --out features
        diffeat store features --verify
    """
    from diffeat.storage import FeatureStore

    opened = FeatureStore.open(folder)
    if not verify:
        typer.echo(opened.listing())
        return
    report = opened.verify()
    typer.echo(str(report))
    if report.problems:
        raise typer.Exit(1)
