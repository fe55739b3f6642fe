"""``diffeat train segmentation``, ``depth`` and ``normals``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer
from typer import Argument, Option

from diffeat.cli.command import DataCommand, given, option, options, reading, refuse
from diffeat.cli.options import Force, Limit, Root, SharedFeatures, TrainingFolder, TrainingSplit, Validation
from diffeat.cli.recipe_options import load, reads, recipe_of
from diffeat.errors import DatasetError, shown

if TYPE_CHECKING:
    from diffeat.datasets.card import Kind


class DenseCommand(DataCommand):
    """A command with an option for every field of the options of dense heads."""

    def shared(self) -> list[Any]:
        from diffeat.tasks.dense.options import DecoderOptions, DenseOptions

        declared = {}
        for name, field in DenseOptions.model_fields.items():
            panel = "Head" if name in DecoderOptions.model_fields else "Training"
            default = field.get_default()
            help = f"{field.description}{'' if default in (None, False) else f' [default: {_told(default)}]'}"
            flag = {"is_flag": True} if field.annotation is bool else {}
            declared["training_seed" if name == "seed" else name] = option(
                _kind(field.annotation), help, panel=panel, **flag
            )
        return [*super().shared(), *options(declared)]


def _told(default: Any) -> str:
    return " ".join(f"{v:g}" for v in default) if isinstance(default, tuple) else str(default)


def _kind(annotation: Any) -> Any:
    """What is typed for a field: repeated for several values, text where there are words to choose from."""
    if get_origin(annotation) is tuple:
        return list[get_args(annotation)[0]]
    kinds = get_args(annotation) or (annotation,)
    plain = [t for t in kinds if t in (bool, int, float)]
    return plain[0] if plain and not any(get_args(t) for t in kinds) else str


StoreDtype = Annotated[str, Option(help="Of stored features: float32, float16, bfloat16, int8.")]
ValidationLimit = Annotated[int | None, Option(min=1, help="About so many validation pictures.")]

_SEGMENTATION = """Train a head that labels every pixel: linear, semantic FPN or UPerNet on the maps of a recipe.

Ends with the run folder OUT, which `diffeat predict` takes and which moves as a whole. Stop it when you like: the
same command goes on and ends in the same weights. In several processes: accelerate launch -m diffeat train ….

Example:
    diffeat toyworld write toy --pairs 2
    diffeat train segmentation toyworld-parts --root toy -r tiny-unet --head linear --steps 100 --limit 20 --out run
"""
_DEPTH = """Train a head that tells the distance of every pixel, by the scale-invariant loss; else as segmentation.

Example:
    diffeat toyworld write toy --pairs 2
    diffeat train depth toyworld-depth --root toy -r tiny-unet --head fpn --steps 100 --limit 20 --out run
"""
_NORMALS = """Train a head that tells where the surface of every pixel faces, by the angle; else as segmentation.

Example:
    diffeat toyworld write toy --pairs 2
    diffeat train normals toyworld-normals --root toy -r tiny-unet --head fpn --steps 100 --limit 20 --out run
"""


def _command(kind: Kind, datasets: str, text: str) -> Callable[..., None]:
    """The command of a kind of dataset; ``text`` is its help."""

    def train(
        ctx: typer.Context,
        dataset: str,
        out: TrainingFolder,
        root: Root = None,
        split: TrainingSplit = None,
        validation: Validation = None,
        limit: Limit = None,
        validation_limit: ValidationLimit = None,
        features: SharedFeatures = None,
        store_dtype: StoreDtype = "float32",
        force: Force = False,
    ) -> None:
        splits, limits = (split, validation), (limit, validation_limit)
        _train(ctx, kind, dataset, root, splits, limits, features, store_dtype, out, force)

    train.__annotations__["dataset"] = Annotated[str, Argument(help=datasets)]
    train.__doc__ = text
    return train


#: By the kind of dataset that is learned from: the command's name, what its help lists, and its help.
HEADS: dict[Kind, tuple[str, str, str]] = {
    "label maps": ("segmentation", "{labelled}", _SEGMENTATION),
    "depth": ("depth", "{depth}", _DEPTH),
    "normals": ("normals", "{normals}", _NORMALS),
}


def add_to(train: typer.Typer) -> None:
    """Add the commands."""
    for kind, (name, *told) in HEADS.items():
        base = type("DenseCommand", (DenseCommand,), {"kinds": (kind,)})
        train.command(name, cls=reads("tiny-unet", base=base))(_command(kind, *told))


def _train(
    ctx: typer.Context,
    kind: Kind,
    dataset: str,
    root: Path | None,
    splits: tuple[str | None, str | None],
    limits: tuple[int | None, int | None],
    features: Path | None,
    store_dtype: str,
    out: Path,
    force: bool,
) -> None:
    from diffeat.datasets.registry import get_card, open_dataset
    from diffeat.evaluation.task import suggested
    from diffeat.files import new_folder
    from diffeat.progress import bar
    from diffeat.report.heads import write_training
    from diffeat.report.page import REPORT
    from diffeat.tasks.dense import DecoderOptions, DenseOptions, maps_apart
    from diffeat.tasks.predictors.folder import FILES, TRAINING
    from diffeat.training.heads.train import train_dense
    from diffeat.training.heads.workers import is_first

    asked = given(ctx)
    own = {name: v for name, v in asked.items() if name in DenseOptions.model_fields and name != "seed"}
    if "training_seed" in asked:
        own["seed"] = asked["training_seed"]
    card = get_card(dataset, kind)
    if kind != "label maps":
        refuse(ctx, ["lovasz", "most"], "they belong to segmentation")
    new_folder(out, FILES, force=force)
    recipe = maps_apart(recipe_of(ctx))
    taken = {name: value for name, value in suggested(recipe, "dense").items() if name not in own}
    if own.get("head", taken.get("head")) != taken.get("head"):  # of the recipe's own head
        taken = {name: value for name, value in taken.items() if name not in DecoderOptions.model_fields}
    if own.get("crop") == "whole":
        taken = {name: value for name, value in taken.items() if name not in ("jitter", "stride", "blend")}
    settings = DenseOptions(**{**taken, **own})
    if taken:
        told = ", ".join(f"--{name.replace('_', '-')} {shown(value)}" for name, value in taken.items())
        typer.echo(f"From recipe {recipe.name}: {told}", err=True)
    how = reading(ctx, kind)
    first = splits[0] or ("train" if card.splits else None)
    data = open_dataset(dataset, root, first, kind=kind, **how).limited(limits[0])
    chosen = "val" if splits[1] is None and "val" in card.splits else splits[1]
    try:
        held_out = open_dataset(dataset, root, chosen, kind=kind, **how).limited(limits[1]) if chosen else None
    except DatasetError as error:
        raise DatasetError(f"{error} (--validation '' trains without validation pictures.)") from None
    source = load(ctx, recipe)
    trained = train_dense(
        source,
        data,
        out,
        settings,
        validation=held_out,
        prompt=asked.get("prompt"),
        features=features,
        store_dtype=store_dtype,
        on_validation=lambda step, scores: typer.echo(f"step {step}: {scores}", err=True),
        progress=bar,
        tell=typer.echo,
        force=force,
    )
    if not is_first():
        return
    new_folder(out / TRAINING, REPORT, force=True)
    page = write_training(trained, force=True)
    typer.echo("\n".join(trained.notes))
    typer.echo(f"Run: {out}\nReport: {page}")
