"""``diffeat show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import given, refuse
from diffeat.cli.options import Force, pictures_of
from diffeat.cli.recipe_options import PLACES, load, reading_of, recipe_of
from diffeat.errors import InvalidValueError
from diffeat.files import PICTURES, new_file, write_picture

_OF_A_MODEL = "recipe weight set model timestep size seed prompt word device dtype batch_size".split()


def show(
    ctx: typer.Context,
    paths: Annotated[list[str], Argument(help="One feature store, or pictures, folders, tars, videos … to read now.")],
    out: Annotated[Path, Option("--out", "-o", help="Picture file to write.")] = Path("features.png"),
    word: Annotated[list[str] | None, Option("--word", "-w", help="Draw attention for this word; repeatable.")] = None,
    shared: Annotated[bool, Option("--shared", help="Equal colours mean equal content in all pictures.")] = False,
    root: Annotated[Path | None, Option(help="Where a store's photos lie: the folder that was extracted.")] = None,
    limit: Annotated[int, Option(min=1, help="At most this many pictures.")] = 8,
    force: Force = False,
) -> None:
    """Draw what features contain: a grid of pictures × activations in PCA colours.

    Takes a store made by `diffeat extract`, or pictures to extract now. With --word, and a --prompt that holds the
    words, draws the model's text attention over the pictures instead.

    Example:
        diffeat samples photos
        diffeat show photos --limit 2 --out features.png
        diffeat extract photos --out features
        diffeat show features --root photos --out stored.png
    """
    from diffeat.geometry import open_image
    from diffeat.report.feature_pictures import picture_of_features, picture_of_words
    from diffeat.storage import FeatureStore

    asked = given(ctx)
    new_file(out, PICTURES, force=force)
    if len(paths) == 1 and FeatureStore.is_store(paths[0]):
        refuse(ctx, (*_OF_A_MODEL, *PLACES), f"{paths[0]} is a store, whose features are already there")
        opened = FeatureStore.open(paths[0])
        features = (opened.load(key, asked.get("activation")) for key in opened.names()[:limit])
        picture = picture_of_features(features, lambda name: open_image((root or Path()) / name), shared)
    else:
        refuse(ctx, ["root"], "pictures are found where they are")
        images = pictures_of(paths, ctx)[:limit]
        if word:
            if "prompt" not in asked:
                raise InvalidValueError("--word needs a --prompt that holds it: --prompt 'a cat on a sofa' --word cat.")
            refuse(ctx, ["shared", "activation", "batch_size"], "--word draws the attention of all layers")
            reading = reading_of(ctx)
            picture = picture_of_words(reading, load(ctx, reading).backbone, images, asked["prompt"], word)
        else:
            features = load(ctx, recipe_of(ctx)).stream(images, asked.get("prompt"))
            photos = {image.name: image for image in images}
            picture = picture_of_features(features, lambda name: photos[name].image, shared)
    typer.echo(write_picture(picture, out, force=force))
