"""``diffeat eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from diffeat.cli.command import flag, given, refuse
from diffeat.cli.options import Force, Root
from diffeat.cli.predict import Blend, Stride, Window, windows_of
from diffeat.cli.recipe_options import load_or_start, recipe_of
from diffeat.cli.tables import print_table
from diffeat.cli.task_options import options_of, refuse_others
from diffeat.errors import InvalidValueError
from diffeat.files import new_folder

if TYPE_CHECKING:
    from diffeat.tasks.predictors.windows import Windows

#: Options of recipes and tasks that a trained head has a use for.
_OF_HEADS = {"split", "limit", "device", "dtype", "batch_size", "allow_code"}


def evaluate(
    ctx: typer.Context,
    dataset: Annotated[str, Argument(help="{datasets}")],
    root: Root = None,
    head: Annotated[
        str | None, Option(help="A trained head in place of a recipe: its run folder, or owner/name on the hub.")
    ] = None,
    window: Window = None,
    stride: Stride = None,
    blend: Blend = None,
    task: Annotated[
        str | None, Option(help="Of label maps: segmentation, or without labels to learn from parts or words.")
    ] = None,
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="Folder of features and report; continued."),
    ] = None,
    force: Force = False,
) -> None:
    """Score a recipe, or a trained head, on a dataset, with the protocol beside every number.

    The kind of the dataset says how: pairs of pictures by PCK; planes by the corners under
    homographies; label maps by the mIoU of a classifier of pixels that
    learned from few labels (with --task parts or words by what needs none); classes by a linear probe on averaged
    features; videos by J&F of labels carried from the first frame. A head (--head) predicts the pictures as `diffeat
    predict` does and is scored by what it predicts: labels, classes, depth or normals. Options of another kind than the
    dataset's are refused.

    Example:
        diffeat toyworld write toy --pairs 2
        diffeat eval toyworld --root toy --limit 20 --out toy-eval
    """
    from diffeat.backbones import remembered
    from diffeat.datasets.registry import get_card
    from diffeat.evaluation.features import feature_folder
    from diffeat.features import check_one_map
    from diffeat.progress import bar
    from diffeat.report.page import REPORT
    from diffeat.report.results import write_result
    from diffeat.tasks.registry import task_of

    if out is not None:
        new_folder(out, REPORT, force=force)
    card = get_card(dataset)
    if head is not None:
        if task is not None:
            raise InvalidValueError("--task would be ignored: a head (--head) is scored by what it predicts.")
        _head(ctx, head, dataset, root, windows_of(ctx, window, stride, blend), out, force)
        return
    refuse(ctx, ["window", "stride", "blend"], "they belong to --head")
    if card.kind in ("depth", "normals"):
        raise InvalidValueError(f"{dataset} holds {card.kind}, which a trained head tells: give its --head RUN.")
    chosen = task_of(card.kind, task)
    asked, fields = given(ctx), chosen.options.model_fields
    scored = card.kind if task is None else f"{card.kind}, scored by {task}"
    refuse_others({*asked} - {"seed"}, {*fields, *card.options}, f"{dataset} holds {scored}", card.kind)
    if (masks := asked.get("masks")) is not None:
        new_folder(masks.absolute().parent, [f"{masks.name}/"], force=force)
    elif out is None:
        refuse(ctx, ["force"], "nothing is written without --out")
    recipe = recipe_of(ctx, used_elsewhere=fields)
    if chosen.one_map:
        check_one_map(recipe.name, recipe.map_names)
    options = options_of(chosen, recipe, {name: value for name, value in asked.items() if name in fields})
    reading = {name: value for name, value in asked.items() if name in card.options}
    data = chosen.open(dataset, root, options, **reading)
    source = load_or_start(ctx, recipe)
    store = feature_folder(out, source) if out else None
    with remembered(None if out is None else out / "encoded"):  # for other recipes on the same pictures
        result = chosen.evaluate(data, source, options, store=store, progress=bar)
    print_table(*result.table(), sums_up=True)
    typer.echo("\n".join(dict.fromkeys([*str(result).splitlines(), *(f"Note: {note}" for note in result.notes)])))
    if out is not None:
        typer.echo(f"Report: {write_result(result, out, force=force)}", err=True)


def _head(
    ctx: typer.Context,
    head: str,
    dataset: str,
    root: Path | None,
    windows: Windows | Literal["whole"] | None,
    out: Path | None,
    force: bool,
) -> None:
    """Score a trained head."""
    from diffeat.datasets.registry import get_card, open_dataset
    from diffeat.progress import bar
    from diffeat.report.results import write_result
    from diffeat.tasks.predictors.evaluate import KINDS, evaluate_head
    from diffeat.tasks.predictors.predictor import Predictor

    asked, card = given(ctx), get_card(dataset)
    if card.kind not in KINDS:
        raise InvalidValueError(f"{dataset} holds {card.kind}; heads are scored on {', '.join(KINDS)}.")
    used = {*_OF_HEADS, *card.options}
    if unused := [flag(name) for name in sorted(asked) if name not in used]:
        raise InvalidValueError(f"{', '.join(unused)} would be ignored: the run folder {head} says what is read.")
    if out is None:
        refuse(ctx, ["force"], "nothing is written without --out")
    reading: dict[str, Any] = {name: value for name, value in asked.items() if name in card.options}
    split = card.split(asked.get("split")) if card.splits else None
    data = open_dataset(dataset, root, split, kind=card.kind, **reading).limited(asked.get("limit"))
    loading = {name: asked.get(name) for name in ("device", "dtype", "batch_size")}
    predictor = Predictor.load(head, **loading, allow_code="allow_code" in asked)
    result = evaluate_head(predictor, data, windows=windows, shown=8, progress=bar)
    print_table(*result.table(), sums_up=True)
    typer.echo("\n".join([*str(result).splitlines(), *(f"Note: {note}" for note in result.notes)]))
    if out is not None:
        typer.echo(f"Report: {write_result(result, out, force=force)}", err=True)
