"""``diffeat train amalgamation``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer import Argument, Option

from diffeat.cli.command import refuse
from diffeat.cli.options import Force, Limit, PicturesOf, Prompts, Root, TrainingFolder, TrainingSplit
from diffeat.cli.recipe_options import load, reading_of
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.files import new_folder


def amalgamation(
    ctx: typer.Context,
    out: TrainingFolder,
    dataset: Annotated[str, Argument(metavar="[DATASET]", help="{learned}")] = "toyworld",
    root: Root = None,
    split: TrainingSplit = None,
    limit: Limit = None,
    task: Annotated[
        str | None,
        Option(
            help="How weights are given, as published for correspondence (a picture's; for pairs), label-scarce (each "
            "pixel's, by an ensemble) or segmentation (each level's); by default what suits the dataset."
        ),
    ] = None,
    released: Annotated[
        bool, Option("--released", help="As the released code where it differs from the paper: the pages say where.")
    ] = False,
    scalar: Annotated[bool, Option("--scalar", help="One weight per view (paper) instead of one per channel.")] = False,
    assigners: Annotated[int | None, Option(min=1, help="Mixtures side by side; members of the ensemble.")] = None,
    convolve: Annotated[
        bool, Option("--convolve", help="A 3×3 convolution over the mixture (correspondence).")
    ] = False,
    sparsity: Annotated[float, Option(min=0, help="γ₁: favours few views.")] = 0,
    diversity: Annotated[float, Option(min=0, help="γ₂: favours assigners that disagree.")] = 0,
    steps: Annotated[int, Option(min=1, help="Of the optimiser.")] = 1000,
    lr: Annotated[float | None, Option(help="Learning rate of AdamW; the published one if not given.")] = None,
    seed: Annotated[int | None, Option(help="Of the first weights and the order of the examples.")] = None,
    prompts: Prompts = None,
    images: PicturesOf = None,
    force: Force = False,
) -> None:
    """Train the weights that mix a recipe's views (GATE's amalgamation), on pairs or on label maps.

    Ends with OUT/recipe.yaml and OUT/weights, which every command takes. The recipe needs views. Stop it when you like:
    the same command goes on and ends in the same weights.

    Example:
        diffeat toyworld write toy --pairs 2
        diffeat train amalgamation --root toy --set "views=[{}, {seed: 1}]" --set fuse.kind=mean --steps 20 -o run
        diffeat eval toyworld --root toy -r run/recipe.yaml --limit 20
    """
    from dataclasses import replace

    from diffeat.datasets.registry import get_card, open_dataset
    from diffeat.evaluation.texts import read_policy
    from diffeat.progress import bar
    from diffeat.report.page import write_facts
    from diffeat.training.amalgamated import PUBLISHED
    from diffeat.training.amalgamation import train_on_labels, train_on_pairs
    from diffeat.training.hyperfeatures.recipes import RECIPE_FILE, WEIGHTS, results_in

    card = get_card(dataset)
    if card.kind not in ("pairs", "label maps"):
        raise InvalidValueError(f"An amalgamation learns from pairs or label maps; {dataset} has {card.kind}.")
    paired = card.kind == "pairs"
    task = task or ("correspondence" if paired else "label-scarce")
    if task not in PUBLISHED:
        raise UnknownNameError(f"There is no task {task!r}. {did_you_mean(task, PUBLISHED)}")
    if (task == "correspondence") != paired:
        suits = "correspondence" if paired else "label-scarce or segmentation"
        raise InvalidValueError(f"{dataset} has {card.kind}; they suit --task {suits}, not {task}.")
    if released:
        refuse(ctx, ["sparsity", "diversity"], "the released code walks the one and has the other at 0")
    if diversity and (assigners or PUBLISHED[task].assigners) == 1:
        raise InvalidValueError("--diversity keeps assigners apart, and there is one: give --assigners 2 or more.")
    changes = {"assigners": assigners, "rate": lr, "seed": seed}
    settings = replace(
        PUBLISHED[task],
        kind="scalar" if scalar else "channel",
        convolve=convolve,
        sparsity=sparsity,
        diversity=diversity,
        released=released,
        steps=steps,
        **{name: value for name, value in changes.items() if value is not None},
    )
    recipe = reading_of(ctx)
    if recipe.views is None:
        raise InvalidValueError(f"Recipe {recipe.name!r} has no views to amalgamate; list them under 'views'.")
    new_folder(out, results_in(out), force=force)
    weights = f"{WEIGHTS}/amalgamation.safetensors"
    data = open_dataset(dataset, root, split or ("train" if card.splits else None), images=images).limited(limit)
    backbone = load(ctx, recipe.replace(fuse=None, views=None)).backbone
    learn: Any = train_on_pairs if paired else train_on_labels
    trained = learn(recipe, backbone, data, settings, read_policy(prompts), out, bar)
    made = trained.recipe(recipe, out / weights).replace(**{"fuse.weights.source": weights})
    made.save(out / RECIPE_FILE, force=force)
    facts = [f"{len(data)} {card.kind} of {data.name} {data.split}; {steps} steps, seed {settings.seed}"]
    write_facts(out, "Amalgamation, trained", [*facts, *str(trained).splitlines()])
    typer.echo(f"{trained}\nRecipe: {out / RECIPE_FILE}")
