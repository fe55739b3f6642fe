"""``diffeat propagate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffeat.cli.options import Activations, BatchSize, Device, Draws, Dtype, ModelName, Size, Timestep
from diffeat.cli.sources import RecipeNames, Weights, make_source
from diffeat.cli.task_options import TaskCommand, given


class PropagateCommand(TaskCommand):
    """With the options of propagation."""

    only = "propagation"


def propagate(
    ctx: typer.Context,
    root: Annotated[
        Path | None, typer.Argument(help="Folder of DAVIS; toy-world videos are drawn if there is none.")
    ] = None,
    recipe: RecipeNames = None,
    weight: Weights = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of masks and report.")] = Path("propagation"),
    model: ModelName = None,
    activation: Activations = None,
    timestep: Timestep = None,
    draws: Draws = None,
    size: Size = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
) -> None:
    """Carry the object masks of a video's first frame through it by features, and score J&F.

    Videos lie as in DAVIS. Masks are written as DAVIS' own evaluation reads them, and scored here too.
    """
    from diffeat.datasets.davis import CARD, write_toyworld_videos
    from diffeat.progress import bar
    from diffeat.report.results import write_result
    from diffeat.tasks.registry import TASKS

    task, chosen = TASKS["propagation"], given(ctx)
    reading = {name: chosen.pop(name) for name in CARD.options if name in chosen}
    options = task.options(**{"masks": out / "masks", **chosen})
    videos = task.open("davis", root or write_toyworld_videos(out / "toyworld"), options, **reading)
    source = make_source(
        recipe, weight, device=device, dtype=dtype, batch_size=batch_size,
        model=model, activations=activation, timesteps=timestep, draws=draws, size=size,
    )  # fmt: skip
    result = task.evaluate(videos, source, options, progress=bar)
    header, rows = result.table()
    typer.echo("  ".join(f"{name} {value}" for name, value in zip(header[1:], rows[-1][1:], strict=True)))
    typer.echo(f"Report: {write_result(result, out)}", err=True)
