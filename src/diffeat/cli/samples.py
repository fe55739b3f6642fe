"""``diffeat samples``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from diffeat.cli.options import Force


def samples(
    folder: Annotated[Path, Argument(help="Folder to write into.")] = Path("photos"),
    force: Force = False,
) -> None:
    """Write a few real photographs to try things with (from scikit-image's data).

    Example:
        diffeat samples photos
    """
    from diffeat.datasets.samples import write_samples

    for path in write_samples(folder, force=force):
        typer.echo(path)
