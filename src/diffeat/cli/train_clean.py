"""``diffeat train clean``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from diffeat.cli.command import given
from diffeat.cli.options import Force, Paths, TrainingFolder
from diffeat.cli.recipe_options import PLACES, load, reading_of
from diffeat.errors import DiffeatError, printable
from diffeat.files import new_folder


def clean(
    ctx: typer.Context,
    paths: Paths,
    out: TrainingFolder,
    prompts: Annotated[
        Path | None,
        Option(help="CSV (image,prompt) or JSON file of texts, one per picture; --prompt is for the others."),
    ] = None,
    steps: Annotated[int, Option(min=1, help="Of the optimiser.")] = 400,
    batch: Annotated[int, Option(min=1, help="Pictures of a step.")] = 8,
    levels: Annotated[int, Option(min=1, help="Noise levels of each picture in a step.")] = 3,
    lr: Annotated[float, Option(min=0, help="Learning rate of Adam.")] = 1e-5,
    every: Annotated[int, Option(min=1, help="Steps between checkpoints.")] = 100,
    seed: Annotated[int, Option(help="Of the order of the pictures, timesteps and noise.")] = 0,
    force: Force = False,
) -> None:
    """Train a copy of a denoiser whose features need no noise and no draws (CleanDIFT), on pictures without labels.

    Its features of the clean picture learn to tell what the model's own tell at all noise levels. Matched are the
    recipe's activations; --timestep is what the copy is told, the recipe's if not given. Ends with OUT/recipe.yaml and
    OUT/weights, which every command takes. Stop it when you like: the same command goes on and ends in the same
    weights.

    Example:
        diffeat samples photos
        diffeat train clean photos --recipe tiny-unet --steps 5 --batch 2 --out run
        diffeat extract photos --recipe run/recipe.yaml --out features
    """
    from diffeat.features import list_pictures
    from diffeat.progress import bar
    from diffeat.report.page import write_facts
    from diffeat.training.clean import CleanSettings, clean_recipe, train_clean
    from diffeat.training.hyperfeatures.recipes import results_in

    new_folder(out, results_in(out), force=force)
    recipe = reading_of(ctx)
    clean_recipe(recipe)  # refused before the model is loaded
    asked = given(ctx)
    places = {name: asked[name] for name in PLACES if name in asked}
    listing = list_pictures(paths, prompts=prompts, **places)
    pictures = [p.told(recipe.text_for(p.text) if p.text else None) for p in listing]
    for picture in pictures:
        picture.check()
    settings = CleanSettings(steps=steps, batch=batch, levels=levels, rate=lr, every=every, seed=seed)

    def passed_over(name: str, error: DiffeatError) -> None:
        typer.secho(printable(f"  passed over  {name}: {error}"), dim=True, err=True)

    outcome = train_clean(load(ctx, recipe), pictures, out, settings, on_error=passed_over, progress=bar, force=force)
    write_facts(out, "Clean features, trained", [str(outcome)])
    typer.echo(f"{outcome}\nRecipe: {outcome.recipe}")
