"""``diffeat show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffeat.cli.options import (
    Activations,
    Device,
    Draws,
    Dtype,
    ModelName,
    Prompt,
    RecipeName,
    Seed,
    Size,
    Timestep,
    any_recipe,
    changed_recipe,
    make_extractor,
)
from diffeat.errors import InvalidValueError


def show(
    paths: Annotated[list[Path], typer.Argument(help="One feature store, or pictures and folders of pictures.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture file to write.")] = Path("features.png"),
    recipe: RecipeName = "tiny-unet",
    model: ModelName = None,
    prompt: Prompt = None,
    word: Annotated[
        list[str] | None, typer.Option("--word", "-w", help="Show where the model attends for this word; repeatable.")
    ] = None,
    activation: Activations = None,
    timestep: Timestep = None,
    draws: Draws = None,
    size: Size = None,
    seed: Seed = None,
    shared: Annotated[
        bool, typer.Option("--shared", help="One colour basis for all pictures: equal colours, equal content.")
    ] = False,
    most: Annotated[int, typer.Option(min=1, help="At most this many pictures.")] = 8,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Draw what features contain: a grid of pictures × activations in PCA colours.

    Takes a store made by `diffeat extract`, or pictures to extract now. With --word, and a --prompt that holds the
    words, draws the model's text attention over the pictures instead.
    """
    from diffeat.report.feature_pictures import picture_of_features, picture_of_words
    from diffeat.storage import FeatureStore

    if word and not prompt:
        raise InvalidValueError(
            "--word needs a --prompt that holds the words, e.g. --prompt 'a cat on a sofa' --word cat."
        )
    if len(paths) == 1 and FeatureStore.is_store(paths[0]):
        if word:
            raise InvalidValueError("--word reads the model itself: give pictures, not a store.")
        opened = FeatureStore.open(paths[0])
        keys = opened.keys()[:most]
        picture = picture_of_features((opened.load(k, activation) for k in keys), shared)
    else:
        from diffeat.geometry import find_images

        images = list(find_images(paths).images)[:most]
        if not images:
            raise InvalidValueError(f"There are no pictures in {', '.join(map(str, paths))}.")
        changes = {
            "model": model, "activations": activation, "timesteps": timestep, "draws": draws, "size": size, "seed": seed
        }  # fmt: skip
        if word:
            single = changed_recipe(recipe, **changes)
            extractor = make_extractor(single, device, dtype)
            picture = picture_of_words(single, extractor.backbone, images, prompt or "", word)
        else:
            extractor = make_extractor(any_recipe(recipe, **changes), device, dtype)
            picture = picture_of_features(extractor.stream(images, prompt), shared)
    out.parent.mkdir(parents=True, exist_ok=True)
    picture.save(out)
    typer.echo(out)
