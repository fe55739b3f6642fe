"""Arguments and options that several commands declare; those of recipes are in :mod:`diffeat.cli.recipe_options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Paths = Annotated[list[Path], typer.Argument(help="Pictures and folders of pictures.")]
PairsName = Annotated[str, typer.Argument(metavar="[DATASET]", help="{pairs}")]
Root = Annotated[Path | None, typer.Option(help="The dataset's folder; for csv and spair-json its file.")]
Protocol = Annotated[str | None, typer.Option(help="How pairs are scored; the dataset's usual one if not given.")]
Prompts = Annotated[
    str | None,
    typer.Option(help="'category', a text with {category}, a JSON file or any text. By default the recipe's own."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="About so many pairs, spread evenly.")]
PicturesOf = Annotated[Path | None, typer.Option("--images", help="For spair-json: folder of the pictures.")]
