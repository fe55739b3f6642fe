"""``diffeat select``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from diffeat.cli.command import given, refuse
from diffeat.cli.options import Force, Paths, pictures_of
from diffeat.cli.recipe_options import load, load_or_start, reading_of
from diffeat.cli.tables import print_table
from diffeat.errors import InvalidValueError
from diffeat.files import RECIPES, new_file, new_folder

if TYPE_CHECKING:
    from diffeat.backbones import Backbone
    from diffeat.extraction import Reading
    from diffeat.studies.selection.search import Selection


def _show_rules(asked: bool) -> None:
    if asked:
        from diffeat.studies.selection.rules import measured_rules_text

        typer.echo(measured_rules_text(), nl=False)
        raise typer.Exit


def select(
    ctx: typer.Context,
    paths: Paths,
    budget: Annotated[int, Option(min=1, help="The most channels of the set.")],
    out: Annotated[Path, Option("--out", "-o", help="The recipe to write (YAML).")] = Path("recipe.yaml"),
    dataset: Annotated[
        list[str] | None,
        Option(help="To rank with: a name that `diffeat eval` knows; repeatable, as a simple and a complex set."),
    ] = None,
    root: Annotated[
        list[Path] | None, Option("--root", help="Folder of the dataset; one for each, in their order, or one for all.")
    ] = None,
    task: Annotated[
        list[str] | None,
        Option(help="correspondence, segmentation, classification or parts; all but parts by default."),
    ] = None,
    category: Annotated[list[str] | None, Option(help="Of label maps, only this one; repeatable.")] = None,
    samples: Annotated[int, Option(min=4, help="Labelled pairs or pictures to score on.")] = 60,
    rules: Annotated[str, Option(help="'measured', 'paper' (by names, as published) or a YAML file.")] = "measured",
    show_rules: Annotated[
        bool, Option("--show-rules", callback=_show_rules, is_eager=True, help="Print the rules, to copy them.")
    ] = False,
    noise_timestep: Annotated[float, Option(help="Where properties are measured, with more noise.")] = 261,
    draws: Annotated[int, Option(min=2, help="Noise draws of that measurement.")] = 4,
    most: Annotated[int, Option(min=1, help="Activations at most.")] = 8,
    limit: Annotated[int, Option(min=2, help="Pictures to measure on, spread evenly over those given.")] = 16,
    heads: Annotated[bool, Option("--heads", help="Single heads of attentions are candidates, too.")] = False,
    seed: Annotated[int, Option(help="Of noise, samples and intervals.")] = 0,
    force: Force = False,
) -> None:
    """Choose a small set of activations of a model: measure, filter, rank, choose.

    Every activation is measured for diffusion noise, granularity and locality in one pass; rules leave some out and say
    why; the others are ranked on labelled pictures (or, without any, by their properties), and the set grows one by one
    within the budget. Beside the recipe a folder is left with a report (selection.html) and with features, from which a
    stopped run goes on. Labels of test splits are never read.

    Name a model (t=50, its own size), or a recipe whose frame, text and timestep are kept; 8 to 16 pictures are plenty.

    Example:
        diffeat toyworld write toy --pairs 2
        diffeat select toy/JPEGImages -m tiny-unet --size 128 --budget 400 --dataset toyworld --root toy --out mine.yaml
    """
    from diffeat.progress import bar
    from diffeat.report.selection import FILES, write_selection
    from diffeat.studies.selection.labels import open_several
    from diffeat.studies.selection.rules import load_rules
    from diffeat.studies.selection.search import SelectionSettings
    from diffeat.studies.selection.search import select as run

    folder = out.parent / f"{out.stem}-selection"
    new_file(out, RECIPES, force=force)
    new_folder(folder, FILES, force=force)
    if rules != "paper":
        load_rules(rules)  # a rule file with a mistake is refused before any model is loaded
    if not dataset:
        refuse(ctx, ["root", "task", "category", "samples"], "they belong to --dataset, which names what to rank with")
        refuse(ctx, ["workers", "ray"], "workers extract labelled pictures, which --dataset names")
    images = pictures_of(paths, ctx)
    step = max(1.0, len(images) / limit)
    images = [images[int(i * step)] for i in range(min(limit, len(images)))]
    limits = {"categories": category or (), "most": samples, "seed": seed}
    labels = open_several(dataset, root or [None], task, **limits) if dataset else []
    backbone, base = _model(ctx)
    settings = SelectionSettings(budget, rules, noise_timestep, draws, most, seed, heads)
    source = partial(load_or_start, ctx) if {"workers", "ray"} & given(ctx).keys() else None
    result = run(backbone, images, settings, folder, labels=labels, base=base, source=source, progress=bar)
    page = write_selection(result, out, folder, force=force)
    _print(result)
    typer.echo(f"Recipe: {out}\nReport: {page}", err=True)


def _model(ctx: typer.Context) -> tuple[Backbone, Reading]:
    """The model, and what is read of it but for the activations."""
    from diffeat.studies.selection.search import default_recipe, load_backbone

    asked = given(ctx)
    if "recipe" in asked:
        recipe = reading_of(ctx).replace(fuse=None, views=None, refine=None)
        return load(ctx, recipe).backbone, recipe
    if "model" not in asked:
        raise InvalidValueError("Say which model to choose from: give --model, or --recipe.")
    backbone = load_backbone(asked["model"], asked.get("device"), asked.get("dtype"))
    return backbone, reading_of(ctx, default_recipe(backbone))


def _print(result: Selection) -> None:
    from diffeat.studies.selection.observations import observations

    kept = sum(v.kept for v in result.verdicts.values())
    typer.echo(f"{len(result.verdicts)} activations measured, {kept} candidates.")
    for line in observations(result.measurement):
        typer.secho(f"  {line}", dim=True)
    names = list(result.steps[0].scores)
    rows = [[step.added, str(step.channels), *(str(step.scores[n]) for n in names)] for step in result.steps]
    print_table(["joined", "channels", *names], rows)
