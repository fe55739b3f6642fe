"""``diffeat massive``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffeat.cli.options import Activations, Device, Dtype, ModelName, Prompt, Size, changed_recipe, make_extractor


def massive(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Pictures and folders; pictures of the toy world if none.")
    ] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Whose model, block and timestep; an adaln recipe such as ditf-flux.")
    ] = "ditf-tiny",
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the report.")] = Path("massive"),
    timesteps: Annotated[
        str, typer.Option(help="Timesteps to follow the channels over: numbers and ranges FROM:TO:STEP, by commas.")
    ] = "50,150,260,400,600,800",
    block: Annotated[
        list[str] | None, typer.Option("--block", help="Blocks to survey (ids, aliases, globs); all if none.")
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(help="Massive: so many times the median channel; the recipe's if not given."),
    ] = None,
    write: Annotated[
        Path | None, typer.Option(help="Write the recipe with the channels that were found as this YAML file.")
    ] = None,
    model: ModelName = None,
    activation: Activations = None,
    prompt: Prompt = None,
    size: Size = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Find a transformer's massive activations, and report where they come from.

    Massive activations are a few channels that are huge in every token, whatever the picture. They hide what features
    tell apart; recipes with 'refine: {discard: pre}' take them out. A report shows which channels they are, the block
    that writes them, how they follow the timestep, and their AdaLN scale, shift and gate.
    """
    from diffeat.cli.ranges import read_numbers
    from diffeat.extraction import calibration_pictures
    from diffeat.features import Picture
    from diffeat.geometry import find_images
    from diffeat.refinement.massive import Rule
    from diffeat.report.massive import summary, write_massive
    from diffeat.studies.massive import find_massive

    times = read_numbers(timesteps, "--timesteps")
    chosen = changed_recipe(recipe, model=model, activations=activation, size=size)
    if prompt is not None:
        chosen = chosen.replace(prompt=chosen.text_for(prompt))
    pictures = list(find_images(paths).images) if paths else list(calibration_pictures())
    extractor = make_extractor(chosen.replace(refine=None), device, dtype)
    rule = None if ratio is None else Rule(ratio=ratio)
    found = find_massive(chosen, extractor.backbone, pictures, timesteps=times, blocks=block or (), rule=rule)
    page = write_massive(found, [Picture.of(p).image for p in pictures[: len(found.examples)]], out)
    for line in summary(found):
        typer.echo(line)
    typer.echo(f"Report: {page}", err=True)
    if write is not None:
        found.recipe.save(write)
        typer.echo(f"Recipe with these channels: {write}", err=True)
