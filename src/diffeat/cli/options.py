"""Arguments and options that several commands declare; those of recipes are in :mod:`diffeat.cli.recipe_options`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import given
from diffeat.errors import InvalidValueError, shown

if TYPE_CHECKING:
    from diffeat.features import Picture

Paths = Annotated[
    list[str],
    Argument(help="Pictures, folders and globs of them, lists, tars, zips, tables, videos; paths or URLs (s3://…)."),
]
PairsName = Annotated[str, Argument(metavar="[DATASET]", help="{pairs}")]
Root = Annotated[Path | None, Option(help="The dataset's folder; for csv and spair-json its file.")]
Protocol = Annotated[str | None, Option(help="How pairs are scored; the dataset's usual one if not given.")]
Prompts = Annotated[
    str | None, Option(help="'category', a text with {category}, a JSON or CSV file of captions, or any text.")
]
Timesteps = Annotated[list[str], Option("--timestep", "-t", help="To try: 0…999 (flow: 1000), or FROM:TO:STEP.")]
Limit = Annotated[int | None, Option(min=1, help="About so many pairs, spread evenly.")]
Force = Annotated[bool, Option("--force", help="Write over results that are there already.")]
TrainingFolder = Annotated[Path, Option("--out", "-o", help="Folder of the training; an earlier one is gone on with.")]
TrainingSplit = Annotated[
    str | None, Option("--split", help="Training split; train if not given, where there are splits.")
]
Validation = Annotated[str | None, Option(help="Validation split, '' for none; val if there is one.")]
ValidationRoot = Annotated[Path | None, Option(help="For csv and spair-json: the validation pairs.")]
ValidationLimit = Annotated[int | None, Option(min=1, help="About so many validation pairs.")]
SharedFeatures = Annotated[Path | None, Option(help="Folder of features, to share between trainings.")]
PicturesOf = Annotated[Path | None, Option("--images", help="For spair-json: folder of the pictures.")]


def pictures_of(paths: Iterable[str | os.PathLike[str]], ctx: typer.Context | None = None) -> list[Picture]:
    """The pictures that paths and URLs stand for, before any model is loaded. What cannot be read of a place that holds
    many is told, and passed over.

    Args:
        ctx: Of a command that has the options for such places.

    Raises:
        ImageError: A path leads to no file.
        InvalidValueError: There are none.
    """
    from diffeat.cli.recipe_options import PLACES
    from diffeat.features.listing import find_pictures

    asked = {} if ctx is None else given(ctx)
    pictures, broken = find_pictures(paths, **{name: asked[name] for name in PLACES if name in asked})
    for message in broken:
        typer.secho(f"  passed over  {message}", dim=True, err=True)
    for picture in pictures:
        picture.check()
    return pictures


def picture_of(path: str) -> Picture:
    """The one picture that a path or URL stands for. Raises as :func:`pictures_of`, and where they are several."""
    first, *others = pictures_of([path])
    if others:
        raise InvalidValueError(f"One picture is wanted; {shown(path)} stands for {len(others) + 1}.")
    return first
