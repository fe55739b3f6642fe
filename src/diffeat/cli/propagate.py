"""``diffeat propagate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import given
from diffeat.cli.options import Force, Root
from diffeat.cli.recipe_options import load, recipe_of
from diffeat.cli.task_options import options_of
from diffeat.files import new_folder


def propagate(
    ctx: typer.Context,
    dataset: Annotated[str, Argument(metavar="[DATASET]", help="Videos in the layout of DAVIS.")] = "davis",
    root: Root = None,
    out: Annotated[Path, Option("--out", "-o", help="Folder of masks and report.")] = Path("propagation"),
    force: Force = False,
) -> None:
    """Carry the object masks of a video's first frame through it by features, and score J&F.

    Videos lie as in DAVIS; without --root a few of the toy world are drawn. Masks are written as DAVIS' own evaluation
    reads them, and scored here too.

    Example:
        diffeat propagate --out propagation
    """
    from diffeat.datasets.davis import write_toyworld_videos
    from diffeat.datasets.registry import get_card
    from diffeat.features import check_one_map
    from diffeat.progress import bar
    from diffeat.report.page import REPORT
    from diffeat.report.results import write_result
    from diffeat.tasks.registry import TASKS

    task, asked = TASKS["propagation"], given(ctx)
    card = get_card(dataset, task.kind)
    values = {name: value for name, value in asked.items() if name in task.options.model_fields}
    reading = {name: value for name, value in asked.items() if name in card.options}
    recipe = recipe_of(ctx)
    check_one_map(recipe.name, recipe.map_names)
    options = options_of(task, recipe, {"masks": out / "masks", **values})
    new_folder(out, REPORT, force=force)
    masks = Path(values.get("masks", out / "masks")).absolute()
    new_folder(masks.parent, [f"{masks.name}/"], force=force)
    videos = task.open(dataset, root or write_toyworld_videos(out / "toyworld"), options, **reading)
    result = task.evaluate(videos, load(ctx, recipe), options, progress=bar)
    header, rows = result.table()
    typer.echo("  ".join(f"{name} {value}" for name, value in zip(header[1:], rows[-1][1:], strict=True)))
    typer.echo("\n".join(f"Note: {note}" for note in result.notes))
    typer.echo(f"Report: {write_result(result, out, force=force)}", err=True)
