"""``diffeat select``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from diffeat.cli.options import Device, Dtype

if TYPE_CHECKING:
    from diffeat.studies.selection.search import Selection


def _show_rules(asked: bool) -> None:
    if asked:
        from diffeat.studies.selection.rules import measured_rules_text

        typer.echo(measured_rules_text(), nl=False)
        raise typer.Exit


def select(
    model: Annotated[str, typer.Option("--model", "-m", help="Alias, hub id or local pipeline folder.")],
    images: Annotated[Path, typer.Option(help="Folder of pictures to measure properties on; 8 to 16 are plenty.")],
    budget: Annotated[int, typer.Option(min=1, help="The most channels of the set.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The recipe to write (YAML).")] = Path("recipe.yaml"),
    labels: Annotated[
        str | None, typer.Option(help="Labelled dataset to rank with: a name that `diffeat eval` knows.")
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of that dataset.")] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="correspondence, segmentation or classification; repeatable. By default all it has labels for."
        ),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="Of label maps, only pictures of this category; repeatable.")
    ] = None,
    rules: Annotated[
        str, typer.Option(help="'measured', 'paper' (names alone, as published) or a YAML file of rules.")
    ] = "measured",
    show_rules: Annotated[
        bool,
        typer.Option("--show-rules", callback=_show_rules, is_eager=True, help="Print the rules, to copy and change."),
    ] = False,
    timestep: Annotated[float, typer.Option("--timestep", "-t", help="Where features are read (0…1000).")] = 50,
    noise_timestep: Annotated[
        float, typer.Option(help="Where properties are measured; higher, for there the noise shows.")
    ] = 261,
    draws: Annotated[int, typer.Option(min=2, help="Noise draws of that measurement.")] = 4,
    size: Annotated[
        int | None, typer.Option(min=1, help="Side of the (squashed) pictures; the model's own if not given.")
    ] = None,
    prompt: Annotated[str, typer.Option(help="Text for all pictures.")] = "",
    most: Annotated[int, typer.Option(min=1, help="Activations at most.")] = 8,
    pictures: Annotated[int, typer.Option(min=2, help="Pictures to measure on, spread evenly over the folder.")] = 16,
    samples: Annotated[int, typer.Option(min=4, help="Labelled pairs or pictures to score on.")] = 60,
    seed: Annotated[int, typer.Option(help="Of noise, samples and intervals.")] = 0,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Choose a small set of activations of a model: measure, filter, rank, choose.

    Every activation is measured for diffusion noise, granularity and locality in one pass; rules leave some out and say
    why; the others are ranked on labelled pictures (or, without any, by their properties), and the set grows one by one
    within the budget. Beside the recipe a folder is left with a report (selection.html) and with features, from which a
    stopped run goes on. Labels of test splits are never read.

    Try it offline:  diffeat toyworld write toy  →  diffeat select -m tiny-unet --images toy/JPEGImages --size 128
    --labels toyworld --root toy --budget 400
    """
    from rich.console import Console

    from diffeat.cli.options import parse_dtype
    from diffeat.errors import InvalidValueError
    from diffeat.geometry import find_images
    from diffeat.progress import bar
    from diffeat.report.selection import write_selection
    from diffeat.studies.selection.labels import open_labels
    from diffeat.studies.selection.rules import load_rules
    from diffeat.studies.selection.search import SelectionSettings, default_recipe, load_backbone
    from diffeat.studies.selection.search import select as run

    if rules != "paper":
        load_rules(rules)  # a rule file with a mistake is refused before any model is loaded
    found = list(find_images(images))
    if not found:
        raise InvalidValueError(f"There are no pictures in {images}.")
    step = max(1.0, len(found) / pictures)
    chosen = [found[int(i * step)] for i in range(min(pictures, len(found)))]
    tasks = open_labels(labels, root, task, categories=category or (), most=samples, seed=seed) if labels else []
    if not labels and (task or root):
        raise InvalidValueError("--task and --root belong to --labels: name the dataset to rank with.")
    with Console(stderr=True).status(f"Loading {model} …"):
        backbone = load_backbone(model, device, parse_dtype(dtype))
    base = default_recipe(backbone).replace(prompt=prompt, **{"trajectory.timesteps": [timestep]})
    if size is not None:
        base = base.replace(frame={"mode": "squash", "size": size})
    folder = out.parent / f"{out.stem}-selection"
    settings = SelectionSettings(budget, rules, noise_timestep, draws, most, seed)
    result = run(backbone, chosen, settings, folder, labels=tasks, base=base, progress=bar)
    page = write_selection(result, out, folder)
    _print(result)
    typer.echo(f"Recipe: {out}\nReport: {page}", err=True)


def _print(result: Selection) -> None:
    from rich.console import Console
    from rich.table import Table

    from diffeat.studies.selection.observations import observations

    console = Console()
    kept = sum(v.kept for v in result.verdicts.values())
    console.print(f"{len(result.verdicts)} activations measured, {kept} candidates.", highlight=False)
    for line in observations(result.measurement):
        console.print(f"  {line}", style="dim", highlight=False)
    table = Table()
    table.add_column("joined", overflow="fold")
    names = list(result.steps[0].scores)
    for title in ("channels", *names):
        table.add_column(title, justify="right")
    for step in result.steps:
        cells = (str(step.scores[n]).replace("[", "\\[") for n in names)
        table.add_row(step.added, str(step.channels), *cells)
    console.print(table)
