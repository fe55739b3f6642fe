"""``diffeat massive``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.options import Force, Timesteps, pictures_of
from diffeat.cli.ranges import read_numbers
from diffeat.cli.recipe_options import load, reading_of
from diffeat.files import RECIPES, new_file, new_folder


def massive(
    ctx: typer.Context,
    paths: Annotated[list[str] | None, Argument(help="Pictures, folders, tars …; the toy world's if none.")] = None,
    out: Annotated[Path, Option("--out", "-o", help="Folder of the report.")] = Path("massive"),
    timestep: Timesteps = ["50,150,260,400,600,800"],  # noqa: B006 (read only; typer copies it)
    block: Annotated[list[str] | None, Option("--block", "-b", help="Survey only these; repeatable.")] = None,
    ratio: Annotated[
        float | None, Option(help="Of a massive channel to the median one; the recipe's by default.")
    ] = None,
    write: Annotated[Path | None, Option(help="YAML file for the recipe with these channels.")] = None,
    force: Force = False,
) -> None:
    """Find a transformer's massive activations, and report where they come from.

    Massive activations are a few channels that are huge in every token, whatever the picture. They hide what features
    tell apart; recipes with 'refine: {discard: pre}' take them out. A report shows which channels they are, the block
    that writes them, how they follow the timestep, and their AdaLN scale, shift and gate.

    Example:
        diffeat massive -r ditf-tiny --out massive --write found.yaml
    """
    from diffeat.extraction import calibration_pictures
    from diffeat.features import Picture
    from diffeat.refinement.massive import Rule
    from diffeat.report.massive import FILES, summary, write_massive
    from diffeat.studies.massive import find_massive

    new_folder(out, FILES, force=force)
    if write is not None:
        new_file(write, RECIPES, force=force)
    times = read_numbers(timestep, "--timestep")
    recipe = reading_of(ctx)
    pictures = pictures_of(paths, ctx) if paths else list(calibration_pictures())
    backbone = load(ctx, recipe.replace(refine=None)).backbone
    rule = None if ratio is None else Rule(ratio=ratio)
    result = find_massive(recipe, backbone, pictures, timesteps=times, blocks=block or (), rule=rule)
    examples = [Picture.of(p).image for p in pictures[: len(result.examples)]]
    page = write_massive(result, examples, out, force=force)
    typer.echo("\n".join(summary(result)))
    typer.echo(f"Report: {page}", err=True)
    if write is not None:
        result.recipe.save(write, force=force)
        typer.echo(f"Recipe with these channels: {write}", err=True)
