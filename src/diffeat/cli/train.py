"""``diffeat train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from diffeat.cli.command import refuse
from diffeat.cli.options import (
    Force,
    Limit,
    PairsName,
    PicturesOf,
    Prompts,
    Protocol,
    Root,
    SharedFeatures,
    TrainingFolder,
    TrainingSplit,
    Validation,
    ValidationLimit,
    ValidationRoot,
)
from diffeat.cli.recipe_options import CHANGES, load, reading_of, reads, recipe_of
from diffeat.cli.tables import print_table
from diffeat.cli.task_options import protocol_of
from diffeat.cli.train_amalgamation import amalgamation
from diffeat.cli.train_clean import clean
from diffeat.cli.train_heads import add_to
from diffeat.cli.train_probe import ProbeCommand, probe
from diffeat.errors import InvalidValueError
from diffeat.files import new_folder

if TYPE_CHECKING:
    from diffeat.datasets.pairs import PairDataset
    from diffeat.evaluation.texts import PromptPolicy
    from diffeat.extraction import Recipe
    from diffeat.extraction.joins.aggregation import AggregationNetwork
    from diffeat.training.hyperfeatures.prune import Pruned
    from diffeat.training.hyperfeatures.run import TrainingData

train = typer.Typer(
    no_args_is_help=True, help="Train heads, probes, clean features and what joins features; make networks cheaper."
)
add_to(train)
train.command(cls=reads("tiny-unet", base=ProbeCommand))(probe)
train.command(cls=reads("tiny-unet", several=False, paths=True))(clean)
train.command(cls=reads("gate-tiny", several=False, without=("prompt",)))(amalgamation)


@train.command(cls=reads("hyperfeatures-tiny", several=False, without=("prompt",)))
def hyperfeatures(
    ctx: typer.Context,
    out: TrainingFolder,
    dataset: PairsName = "toyworld",
    root: Root = None,
    split: TrainingSplit = None,
    validation: Validation = None,
    validation_root: ValidationRoot = None,
    limit: Limit = None,
    validation_limit: ValidationLimit = 360,
    steps: Annotated[int, Option(min=1, help="Of the optimiser.")] = 5000,
    pairs: Annotated[int, Option(min=1, help="Pairs per step.")] = 1,
    lr: Annotated[float, Option(help="Learning rate of AdamW.")] = 1e-3,
    projection: Annotated[int, Option(help="Channels of the descriptor, a multiple of 32.")] = 384,
    bottleneck: Annotated[int | None, Option(help="Channels inside, a multiple of 32; a quarter if not given.")] = None,
    flip: Annotated[float, Option(min=0, max=1, help="Share of pairs that are mirrored, both pictures.")] = 0,
    dense: Annotated[float, Option(min=0, help="Weight of the position loss over the whole picture.")] = 0,
    grid: Annotated[
        int | None, Option(min=1, help="Side of a square descriptor; the largest map's by default.")
    ] = None,
    every: Annotated[int, Option(min=1, help="Steps between validations.")] = 1000,
    start: Annotated[bool, Option("--start", help="Start from the recipe's own trained weights.")] = False,
    features: SharedFeatures = None,
    store_dtype: Annotated[str, Option(help="Of stored features: float16, float32, bfloat16, int8.")] = "float16",
    store_limit: Annotated[
        float | None, Option(min=0, help="Most GiB of stored features; where more are needed, none are stored.")
    ] = None,
    seed: Annotated[int, Option(help="Of the first weights, the order of the pairs and the mirroring.")] = 0,
    protocol: Protocol = None,
    prompts: Prompts = None,
    images: PicturesOf = None,
    force: Force = False,
) -> None:
    """Train the aggregation network of Diffusion Hyperfeatures on pairs of pictures with common points.

    Ends with OUT/recipe.yaml and OUT/weights, which every command takes. The pictures' maps are extracted once into a
    feature store. Stop it when you like: the same command goes on and ends in the same weights.

    Example:
        diffeat toyworld write toy --pairs 2
        diffeat train hyperfeatures toyworld --root toy --steps 20 --limit 20 --out run
        diffeat eval toyworld --root toy -r run/recipe.yaml --limit 20
    """
    from diffeat.extraction import Reading
    from diffeat.progress import bar
    from diffeat.report.hyperfeatures import write_training_report
    from diffeat.report.page import REPORT, write_facts
    from diffeat.training.hyperfeatures.recipes import network_of, results_in
    from diffeat.training.hyperfeatures.run import Storage, train_hyperfeatures
    from diffeat.training.hyperfeatures.train import TrainSettings
    from diffeat.training.loop import LOG, read_log

    settings = TrainSettings(
        steps=steps,
        lr=lr,
        pairs=pairs,
        seed=seed,
        flip=flip,
        dense=dense,
        validate_every=every,
        grid=None if grid is None else (grid, grid),
        projection=projection,
        bottleneck=bottleneck,
    )
    if start:
        refuse(ctx, ["projection", "bottleneck"], "the network that is started from has its own")
    new_folder(out, [*results_in(out), REPORT[-1]], force=force)
    recipe = reading_of(ctx)
    data = _data(
        ctx, recipe, dataset, (root, validation_root), (split, validation), images, (limit, validation_limit), protocol,
        prompts,
    )  # fmt: skip
    extractor = load(ctx, recipe.replace(fuse=None))
    outcome = train_hyperfeatures(
        extractor,
        data,
        out,
        settings,
        start=network_of(recipe) if start else None,
        storage=Storage(features, store_dtype, None if store_limit is None else int(store_limit * 2**30)),
        progress=bar,
        force=force,
        on_validation=lambda step, result: typer.echo(f"step {step}: validation {result.headline}", err=True),
    )
    trained = outcome.trained
    facts = [
        f"{len(data.pairs)} pairs of {data.pairs.name} {data.pairs.split}; {outcome.pictures} pictures, "
        + ("their maps stored" if outcome.stored else "extracted again in every step: their maps do not fit the limit"),
        f"{steps} steps, {pairs} pairs each, learning rate {lr:g}, seed {settings.seed}"
        + "".join(f", {n} {v:g}" for n, v in (("flip", flip), ("dense", dense)) if v),
    ]
    facts += [*data.pairs.notes, f"features computed in {extractor.precision}, stored in {store_dtype}"]
    if trained.validation is not None:
        facts += [
            f"best at step {trained.step}: validation {trained.validation.headline}",
            f"validation pairs: {_named(data.validation)}; protocol {data.protocol}; 95% bootstrap over pictures",
            *trained.validation.notes,
        ]
    page = write_training_report(
        out,
        Reading.load(outcome.recipe),
        trained.network,
        read_log(out / LOG),
        extractor.times,
        facts,
        data.protocol,
        force=force,
    )
    write_facts(out, "Hyperfeatures, trained", facts)
    typer.echo("\n".join(facts))
    typer.echo(f"Recipe: {outcome.recipe}\nReport: {page}")


@train.command(cls=reads("gdf-sd15-spair"))
def convolution(
    ctx: typer.Context,
    out: TrainingFolder,
    dataset: PairsName = "toyworld",
    root: Root = None,
    split: TrainingSplit = None,
    validation: Validation = None,
    validation_root: ValidationRoot = None,
    limit: Limit = None,
    validation_limit: ValidationLimit = 360,
    steps: Annotated[int, Option(min=1, help="Of the optimiser, a pair each.")] = 10_000,
    lr: Annotated[float, Option(help="Learning rate of AdamW.")] = 5e-4,
    every: Annotated[int, Option(min=1, help="Steps between validations.")] = 500,
    features: SharedFeatures = None,
    seed: Annotated[int, Option(help="Of the first weights and the order of the pairs.")] = 0,
    protocol: Protocol = None,
    prompts: Prompts = None,
    images: PicturesOf = None,
    force: Force = False,
) -> None:
    """Train a 3×3 convolution over joined maps on pairs of pictures with common points, as Generic Diffusion Feature.

    Takes the joined maps of one diffusion model, or of several (a joined recipe). Ends with OUT/recipe.yaml, which
    every command takes. Stop it when you like: the same command goes on and ends in the same weights.

    Example:
        diffeat toyworld write toy --pairs 2
        diffeat train convolution toyworld --root toy -r tiny-unet --steps 20 --limit 10 --validation-limit 10 --out run
        diffeat eval toyworld --root toy -r run/recipe.yaml --limit 20
    """
    from diffeat.progress import bar
    from diffeat.report.page import write_facts
    from diffeat.training.convolution import ConvolutionSettings, parts_of, results_in, train_convolution
    from diffeat.training.hyperfeatures.run import Storage

    settings = ConvolutionSettings(steps=steps, lr=lr, every=every, seed=seed)
    new_folder(out, results_in(out), force=force)
    recipe = recipe_of(ctx)
    parts = parts_of(recipe)
    data = _data(
        ctx, recipe, dataset, (root, validation_root), (split, validation), images, (limit, validation_limit), protocol,
        prompts,
    )  # fmt: skip
    extractors = [load(ctx, part.replace(fuse=None)) for part in parts]
    outcome = train_convolution(
        recipe,
        extractors,
        data,
        out,
        settings,
        storage=Storage(features),
        progress=bar,
        force=force,
        on_validation=lambda step, result: typer.echo(f"step {step}: validation {result.headline}", err=True),
    )
    facts = [f"{len(data.pairs)} pairs of {data.pairs.name} {data.pairs.split}; {outcome.pictures} pictures"]
    facts += [f"{steps} steps, a pair each, learning rate {lr:g}, seed {seed}"]
    if outcome.validation is not None:
        facts += [
            f"best at step {outcome.step}: validation {outcome.validation.headline}",
            f"validation pairs: {_named(data.validation)}; protocol {data.protocol}",
        ]
    facts += [*data.pairs.notes, f"features computed in {' + '.join(dict.fromkeys(e.precision for e in extractors))}"]
    write_facts(out, "Convolution over joined maps, trained", facts)
    typer.echo("\n".join(facts))
    typer.echo(f"Recipe: {outcome.recipe}")


@train.command(cls=reads(several=False, without=CHANGES))
def prune(
    ctx: typer.Context,
    out: Annotated[Path, Option("--out", "-o", help="Folder of the report and of the cheaper recipe.")],
    keep: Annotated[int | None, Option(min=1, help="Write the recipe of the K strongest pairs.")] = None,
    one_step: Annotated[bool, Option("--one-step", help="Write the recipe of the strongest step.")] = False,
    one_layer: Annotated[bool, Option("--one-layer", help="Write the recipe of the strongest layer.")] = False,
    dataset: PairsName = "toyworld",
    root: Root = None,
    split: Annotated[str | None, Option(help="Split to measure on; val where there are splits.")] = None,
    limit: Limit = 360,
    features: Annotated[Path | None, Option(help="Folder of stored features, e.g. that of the training.")] = None,
    protocol: Protocol = None,
    prompts: Prompts = None,
    images: PicturesOf = None,
    force: Force = False,
) -> None:
    """Show what a trained network mixes, and make it cheaper.

    The report holds the mixing weights as a layer × timestep heat map and the curve of accuracy against cost when only
    the strongest pairs, one step or one layer are kept. With --keep, --one-step or --one-layer the cheaper recipe is
    written to OUT/recipe.yaml; its trajectory ends earlier and it reads fewer layers.

    Example:
        diffeat toyworld write toy --pairs 2
        diffeat train prune -r hyperfeatures-tiny --root toy --limit 20 --keep 8 --out pruned
    """
    from diffeat.datasets.registry import get_card
    from diffeat.evaluation.texts import precision_notes
    from diffeat.progress import bar
    from diffeat.report.hyperfeatures import about_curve, curve_rows, write_pruning_report
    from diffeat.report.page import REPORT
    from diffeat.training.hyperfeatures.prepare import prepare
    from diffeat.training.hyperfeatures.prune import curve
    from diffeat.training.hyperfeatures.recipes import (
        RECIPE_FILE,
        WEIGHTS,
        catalogue_at_size,
        full_grid,
        network_of,
        recipe_of,
        write_recipe,
    )

    if (keep is not None) + one_step + one_layer > 1:
        raise InvalidValueError("Give one of --keep, --one-step and --one-layer.")
    written = [RECIPE_FILE, f"{WEIGHTS}/"] if keep is not None or one_step or one_layer else []
    new_folder(out, [*REPORT, *written], force=force)
    recipe = reading_of(ctx)
    network = network_of(recipe)
    chosen = _chosen(network, keep, one_step, one_layer)
    card = get_card(dataset, "pairs")
    pairs = _pairs(dataset, root, split or card.split_to_choose_on(), images, limit)
    scored_by = protocol_of(protocol, recipe, card.protocol)
    extractor = load(ctx, recipe_of(recipe, network.config))
    network.to(extractor.backbone.device)
    texts = scored_by.prompts(_policy(prompts), recipe)
    with prepare(extractor, [pairs], features or out, prompts=texts, progress=bar) as ready:
        layers = catalogue_at_size(recipe, extractor.backbone)
        points = curve(network, recipe, layers, pairs, ready.source, scored_by, progress=bar)
    notes = precision_notes(extractor)
    page = write_pruning_report(out, recipe, network, points, extractor.times, _named(pairs), notes, force=force)
    print_table(*curve_rows(points))
    typer.echo("\n".join([*about_curve(points, _named(pairs)), *notes]))
    if chosen is not None:
        grid = full_grid(recipe, layers)
        path = write_recipe(recipe, chosen.network, out, out.name, f"{recipe.name}, {chosen.label}", grid, force=force)
        typer.echo(f"Recipe: {path}")
    typer.echo(f"Report: {page}")


def _chosen(network: AggregationNetwork, keep: int | None, one_step: bool, one_layer: bool) -> Pruned | None:
    from diffeat.training.hyperfeatures.prune import keep_layer, keep_step, keep_strongest

    if keep is not None:
        return keep_strongest(network, keep)
    return keep_step(network) if one_step else keep_layer(network) if one_layer else None


def _data(
    ctx: typer.Context,
    recipe: Recipe,
    dataset: str,
    roots: tuple[Path | None, Path | None],
    splits: tuple[str | None, str | None],
    images: Path | None,
    limits: tuple[int | None, int | None],
    protocol: str | None,
    prompts: str | None,
) -> TrainingData:
    """Training and validation pairs; roots, splits and limits are of both."""
    from diffeat.datasets.registry import get_card
    from diffeat.training.hyperfeatures.run import TrainingData

    card = get_card(dataset, "pairs")
    training = _pairs(dataset, roots[0], splits[0] or ("train" if card.splits else None), images, limits[0])
    validation = "val" if splits[1] is None and "val" in card.splits else splits[1]
    held_out = None
    if validation or roots[1] is not None:
        held_out = _pairs(dataset, roots[1] or roots[0], validation or None, images, limits[1])
    else:
        refuse(ctx, ["validation_limit", "protocol"], "there are no validation pairs")
    return TrainingData(training, held_out, protocol_of(protocol, recipe, card.protocol), _policy(prompts))


def _pairs(dataset: str, root: Path | None, split: str | None, images: Path | None, limit: int | None) -> PairDataset:
    from diffeat.datasets.registry import open_dataset

    return open_dataset(dataset, root, split, kind="pairs", images=images).limited(limit)


def _named(pairs: PairDataset | None) -> str:
    return "" if pairs is None else f"{pairs.name} {pairs.split}".strip()


def _policy(text: str | None) -> PromptPolicy:
    from diffeat.evaluation.texts import read_policy

    return read_policy(text)
