"""Arguments and options that several commands declare; those of recipes are in :mod:`diffeat.cli.recipe_options`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Paths = Annotated[list[Path], Argument(help="Pictures and folders of pictures.")]
PairsName = Annotated[str, Argument(metavar="[DATASET]", help="{pairs}")]
Root = Annotated[Path | None, Option(help="The dataset's folder; for csv and spair-json its file.")]
Protocol = Annotated[str | None, Option(help="How pairs are scored; the dataset's usual one if not given.")]
Prompts = Annotated[str | None, Option(help="'category', a text with {category}, a JSON file of texts, or any text.")]
Timesteps = Annotated[list[str], Option("--timestep", "-t", help="To try: 0…1000, or FROM:TO:STEP; repeatable.")]
Limit = Annotated[int | None, Option(min=1, help="About so many pairs, spread evenly.")]
PicturesOf = Annotated[Path | None, Option("--images", help="For spair-json: folder of the pictures.")]
