"""``diffeat eval`` on datasets with labels of pixels or of pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from diffeat.errors import InvalidValueError

if TYPE_CHECKING:
    from diffeat.tasks.correspondence.features import FeatureSource


@dataclass(frozen=True)
class LabelOptions:
    """What the command line says about labels."""

    classifier: str = "ensemble"
    splits: int = 1
    labelled: int | None = None
    pixels: int | None = None
    categories: tuple[str, ...] = ()
    limit: int | None = None
    seed: int = 0


def evaluate_labels(
    dataset: str, root: Path | None, source: FeatureSource, options: LabelOptions, prompts: Any, save: Path | None
) -> None:
    """Score a source of features, print the numbers and write the report."""
    from diffeat.datasets.registry import get_card

    run = _segmentation if get_card(dataset).kind == "label maps" else _classification
    run(dataset, root, source, options, prompts, save)


def _segmentation(
    dataset: str, root: Path | None, source: FeatureSource, options: LabelOptions, prompts: Any, save: Path | None
) -> None:
    from diffeat.datasets.registry import open_dataset
    from diffeat.progress import bar
    from diffeat.report.labels import Example, class_rows, write_segmentation
    from diffeat.tasks.segmentation import evaluate_segmentation

    parts = [open_dataset(dataset, root, split, kind="label maps") for split in ("train", "test")]
    if options.categories:
        parts = [part.only(options.categories) for part in parts]
    examples: list[Example] = []

    def seen(*what: Any) -> None:
        if len(examples) < 8:
            examples.append(Example(*what))

    found = evaluate_segmentation(
        parts[0], parts[1], source, classifier=options.classifier, splits=options.splits, labelled=options.labelled,
        pixels=options.pixels, prompts=prompts, seed=options.seed, progress=bar, seen=seen,
        store=save / f"features-{source.recipe.hash[:12]}" if save else None,
    )  # fmt: skip
    _print(*class_rows(found), str(found), found.notes)
    if save is not None:
        typer.echo(f"Report: {write_segmentation(found, save, examples)}", err=True)


def _classification(
    dataset: str, root: Path | None, source: FeatureSource, options: LabelOptions, prompts: Any, save: Path | None
) -> None:
    from diffeat.datasets.registry import open_dataset
    from diffeat.progress import bar
    from diffeat.report.labels import accuracy_rows, write_classification
    from diffeat.tasks.classification import evaluate_classification

    if options.splits != 1 or options.labelled or options.categories:
        raise InvalidValueError("--splits, --labelled and --category belong to datasets of label maps.")
    store = save / f"features-{source.recipe.hash[:12]}" if save else None
    parts = [open_dataset(dataset, root, split, kind="classes").limited(options.limit) for split in ("train", "test")]
    found = evaluate_classification(parts[0], parts[1], source, prompts=prompts, store=store, progress=bar)
    _print(*accuracy_rows(found), str(found), found.notes)
    if save is not None:
        typer.echo(f"Report: {write_classification(found, save)}", err=True)


def _print(header: list[str], rows: list[list[str]], text: str, notes: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table()
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(f"[bold]{c.strip('*')}[/]" if row is rows[-1] else c for c in row))
    console.print(table)
    console.print(text, highlight=False, markup=False)
    for note in notes:
        console.print(f"  {note}", style="dim", highlight=False)
