"""Arguments and options that several commands declare; those of recipes are in :mod:`diffeat.cli.recipe_options`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from diffeat.errors import ImageError, InvalidValueError, shown

Paths = Annotated[list[Path], Argument(help="Pictures and folders of pictures.")]
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


def pictures_of(paths: Iterable[Path]) -> list[Path]:
    """The pictures that paths name, before any model is loaded.

    Raises:
        ImageError: A path leads to no file.
        InvalidValueError: There are none.
    """
    from diffeat.geometry import find_images

    images = list(find_images(paths))
    for image in images:
        if not os.path.isfile(image):
            reason = "is no regular file" if os.path.exists(image) else "does not exist"
            raise ImageError(f"The picture {shown(str(image))} {reason}.")
    if not images:
        raise InvalidValueError(f"There are no pictures in {', '.join(shown(str(path)) for path in paths)}.")
    return images
