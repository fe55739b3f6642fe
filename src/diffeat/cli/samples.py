"""``diffeat samples``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.options import Force


def samples(
    folder: Annotated[Path, Argument(help="Folder to write into.")] = Path("photos"),
    masks: Annotated[
        bool, Option("--masks", help="Twelve photographs in images/ with their masks in masks/, to train on.")
    ] = False,
    force: Force = False,
) -> None:
    """Write a few real photographs to try things with (from scikit-image's data).

    Example:
        diffeat samples photos
        diffeat samples labelled --masks
        diffeat check folder --root labelled
    """
    from diffeat.datasets.samples import write_labelled_samples, write_samples

    for path in (write_labelled_samples if masks else write_samples)(folder, force=force):
        typer.echo(path)
