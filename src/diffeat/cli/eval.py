"""``diffeat eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from diffeat.errors import InvalidValueError

if TYPE_CHECKING:
    from diffeat.tasks.correspondence.evaluate import Evaluation


def evaluate(
    dataset: Annotated[
        str,
        typer.Argument(help="{datasets}"),
    ],
    root: Annotated[Path | None, typer.Option(help="The dataset's folder; for csv and spair-json its file.")] = None,
    recipe: RecipeNames = None,
    weight: Weights = None,
    split: Annotated[str | None, typer.Option(help="trn, val, test …; the test split if there are splits.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="How predictions are made and scored; the dataset's usual one if not given.")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Text for the pictures: 'category', a text with {category} in it, a JSON file {category: text}, or "
            "any other text. By default the recipe's own."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="About so many pairs, spread evenly; noted in the report.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for features and report. A later run goes on with its features.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="For spair-json: folder of the pictures.")] = None,
    flip: Annotated[
        bool, typer.Option("--flip", help="Also match from the mirrored source, and take the better.")
    ] = False,
    joint_pca: Annotated[
        int | None, typer.Option(min=1, help="Project each pair's features on so many joint principal components.")
    ] = None,
    classifier: Annotated[
        str, typer.Option(help="For label maps: 'ensemble' of pixel networks with voting, or 'linear'.")
    ] = "ensemble",
    splits: Annotated[int, typer.Option(min=1, help="For label maps: random splits, for mean ± std.")] = 1,
    labelled: Annotated[int | None, typer.Option(min=1, help="For label maps: training pictures per split.")] = None,
    pixels: Annotated[
        int | None, typer.Option(min=1, help="For label maps: training pixels per picture; all if not given.")
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(help="For label maps: only pictures of this category; repeatable.")
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

    Pairs of pictures are scored by PCK. Label maps are for segmentation with few labels: mIoU of a classifier of
    pixels over the whole test set. Classes are scored by a linear probe on averaged features.
    """
    from diffeat.datasets.registry import get_card, open_dataset
    from diffeat.progress import bar
    from diffeat.tasks.correspondence.evaluate import evaluate as run
    from diffeat.tasks.correspondence.protocol import get_protocol

    changes = {
        "model": model, "activations": activation, "timesteps": timestep, "draws": draws, "size": size, "seed": seed,
    }  # fmt: skip
    card = get_card(dataset)
    if card.kind != "pairs":
        from diffeat.cli.eval_labels import LabelOptions, evaluate_labels

        source = make_source(recipe, weight, device=device, dtype=dtype, batch_size=batch_size, **changes)
        options = LabelOptions(classifier, splits, labelled, pixels, tuple(category or ()), limit, seed or 0)
        evaluate_labels(dataset, root, source, options, read_policy(prompts), save)
        return
    pairs = open_dataset(dataset, root, split, kind="pairs", images=images).limited(limit)
    chosen = get_protocol(protocol or card.protocol)
    source = make_source(recipe, weight, device=device, dtype=dtype, batch_size=batch_size, **changes)
    store = save / f"features-{source.recipe.hash[:12]}" if save else None
    found = run(
        pairs, source, chosen, prompts=read_policy(prompts), store=store, flip=flip, joint_pca=joint_pca, progress=bar
    )
    _print(found)
    if save is not None:
        from diffeat.report.correspondence import write_report

        typer.echo(f"Report: {write_report(found, save)}", err=True)


def read_policy(text: str | None) -> Any:
    """The prompt policy: a JSON file of texts is read, anything else is taken as it is.

    Raises:
        InvalidValueError: The file is not a mapping of category to text.
    """
    if text is None or not text.endswith(".json"):
        return text
    import json

    path = Path(text)
    if not path.is_file():
        raise InvalidValueError(f"There is no prompt file {text!r}.")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InvalidValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise InvalidValueError(f"{path} must map each category to a text.")
    return data


def _print(found: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    from diffeat.report.correspondence import category_rows

    console = Console()
    header, rows = category_rows(found.result)
    table = Table()
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(f"[bold]{c.strip('*')}[/]" if row is rows[-1] else c for c in row))
    console.print(table)
    console.print(str(found), highlight=False, markup=False)
