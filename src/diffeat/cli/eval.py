"""``diffeat eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffeat.cli.options import (
    Activations,
    BatchSize,
    Device,
    Draws,
    Dtype,
    ModelName,
    Seed,
    Size,
    Timestep,
)
from diffeat.cli.sources import RecipeNames, Weights, make_source
from diffeat.cli.tables import print_table
from diffeat.cli.task_options import given, homes, refuse_unused


def evaluate(
    ctx: typer.Context,
    dataset: Annotated[str, typer.Argument(help="{datasets}")],
    root: Annotated[Path | None, typer.Option(help="The dataset's folder; for csv and spair-json its file.")] = None,
    recipe: RecipeNames = None,
    weight: Weights = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for features and report. A later run goes on with its features.")
    ] = None,
    model: ModelName = None,
    activation: Activations = None,
    timestep: Timestep = None,
    draws: Draws = None,
    size: Size = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
) -> None:
    """Score a recipe on a dataset, with the protocol beside every number.

    The kind of the dataset says how: pairs of pictures by PCK; label maps by the mIoU of a classifier of pixels that
    learned from few labels; classes by a linear probe on averaged features; videos by J&F of labels carried from the
    first frame. Options of another kind than the dataset's are refused.
    """
    from rich.console import Console

    from diffeat.datasets.registry import get_card
    from diffeat.evaluation.features import feature_folder
    from diffeat.progress import bar
    from diffeat.report.results import write_result
    from diffeat.tasks.registry import task_of

    card = get_card(dataset)
    task = task_of(card.kind)
    chosen = given(ctx)
    fields = set(task.options.model_fields)
    refuse_unused(chosen, {*fields, *card.options}, homes(), f"{dataset} holds {card.kind}")
    values = {name: value for name, value in chosen.items() if name in fields}
    if seed is not None and "seed" in fields:
        values["seed"] = seed
    options = task.options(**values)
    reading = {name: value for name, value in chosen.items() if name in card.options}
    data = task.open(dataset, root, options, **reading)
    source = make_source(
        recipe, weight, device=device, dtype=dtype, batch_size=batch_size,
        model=model, activations=activation, timesteps=timestep, draws=draws, size=size, seed=seed,
    )  # fmt: skip
    store = feature_folder(save, source) if save else None
    result = task.evaluate(data, source, options, store=store, progress=bar)
    print_table(*result.table(), sums_up=True)
    console = Console()
    console.print(str(result), highlight=False, markup=False)
    if save is not None:
        typer.echo(f"Report: {write_result(result, save)}", err=True)
