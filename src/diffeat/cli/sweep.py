"""``diffeat sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from typer import Option

from diffeat.cli.command import given, refuse
from diffeat.cli.options import Force, Limit, PairsName, Prompts, Protocol, Root, Timesteps
from diffeat.cli.ranges import items_of, read_numbers
from diffeat.cli.recipe_options import load, load_or_start, reading_of
from diffeat.cli.task_options import options_of, protocol_of, refuse_others
from diffeat.files import new_folder

if TYPE_CHECKING:
    from diffeat.extraction import Reading
    from diffeat.features import FeatureMap, Source
    from diffeat.tasks.parts.evaluate import PartsOptions
    from diffeat.tasks.words.evaluate import WordsOptions


_PAIRS = "correspondence"
_TOYWORLD = {"parts": "toyworld-parts", "words": "toyworld-figures"}


def sweep(
    ctx: typer.Context,
    timestep: Timesteps,
    block: Annotated[
        list[str] | None,
        Option("--block", "-b", help="To try: ids, aliases, globs, or K and FROM:TO for ditf:K; repeatable."),
    ] = None,
    dataset: PairsName = "toyworld",
    task: Annotated[str, Option(help="correspondence, parts or words (blocks are attentions; all if none).")] = _PAIRS,
    heads: Annotated[bool, Option("--heads", help="Of words: every head by itself, too.")] = False,
    root: Root = None,
    split: Annotated[str | None, Option(help="Split to choose on; val if not given, where there are splits.")] = None,
    protocol: Protocol = None,
    prompts: Prompts = None,
    limit: Limit = None,
    out: Annotated[Path, Option("--out", "-o", help="Folder of cells and report; continued.")] = Path("sweep"),
    force: Force = False,
) -> None:
    """Choose a recipe's timestep and block: score every combination on a dataset, as a heat map.

    With --task parts or words it is the block whose parts, or the attention (or head) whose word maps are best.

    Each timestep is extracted once for all blocks. Stop it at any time; the same command, or one with more timesteps
    and blocks (and --force, where there is a report), goes on with the cells that are done. Write-up and best.yaml lie
    in the folder. The toy world is drawn if it has no --root.

    Example:
        diffeat sweep -r ditf-tiny -t 20:500:160 -b 3:6 --limit 20 --out sweep
        diffeat sweep --task words -r tiny-unet -t 100 --apart --limit 10 --out words
    """
    from diffeat.datasets.registry import get_card, open_dataset
    from diffeat.datasets.toyworld_spair import write_toyworld_pairs
    from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
    from diffeat.progress import bar
    from diffeat.report.sweep import FILES, summary, write_sweep
    from diffeat.studies.sweeps import Sweep
    from diffeat.tasks.registry import TASKS

    if task != _PAIRS and task not in _TOYWORLD:
        raise UnknownNameError(f"No task {task!r} to sweep. {did_you_mean(task, [_PAIRS, *_TOYWORLD])}".rstrip())
    if not block and task != "words":
        raise InvalidValueError("Say which blocks to try: give --block.")
    asked, fields = given(ctx), TASKS[task].options.model_fields
    refuse_others({*asked} - {"seed"}, {*fields, "split", "limit"}, f"{task} is swept", TASKS[task].kind)
    refuse(ctx, ["heads"] if task != "words" else ["layers"], "it belongs to --task words; --block names attentions")
    if task != _PAIRS:
        refuse(ctx, ["protocol", "prompts"], "it belongs to pairs")
    new_folder(out, FILES, force=force)
    times = read_numbers(timestep, "--timestep")
    recipe = reading_of(ctx)
    recipe.replace(fuse=None, **{"trajectory.timesteps": times[:1]})  # refused before anything is loaded
    written = dataset == "toyworld"
    name = _TOYWORLD.get(task, dataset) if written else dataset
    card = get_card(name, TASKS[task].kind)
    if written and root is None:
        root = write_toyworld_pairs(out / "toyworld", images={"trn": 0, "val": 4, "test": 10})
    chosen_split = split or card.split_to_choose_on()

    def run() -> Sweep:
        if task == _PAIRS:
            from diffeat.evaluation.texts import read_policy
            from diffeat.studies.sweeps import sweep as sweep_pairs

            pairs = open_dataset(name, root, chosen_split, kind="pairs").limited(limit)
            first = load_or_start(ctx, recipe)
            return sweep_pairs(
                recipe, first.of, pairs, protocol_of(protocol, recipe, card.protocol), out, timesteps=times,
                blocks=_names(first, recipe, block), prompts=read_policy(prompts), weights=first.fingerprint,
                progress=bar,
            )  # fmt: skip
        from diffeat.studies.mask_sweeps import sweep_parts, sweep_words

        data = open_dataset(name, root, chosen_split, kind="label maps").limited(limit)
        options = options_of(TASKS[task], recipe, {key: value for key, value in asked.items() if key in fields})
        if task == "words":
            refuse(ctx, ["workers", "ray"], "attention is read in this process")
            model = load(ctx, recipe)
            return sweep_words(
                recipe, model.of, data, cast("WordsOptions", options), out, timesteps=times, layers=block or (),
                heads=heads, weights=model.fingerprint, progress=bar,
            )  # fmt: skip
        first = load_or_start(ctx, recipe)
        return sweep_parts(
            recipe, first.of, data, cast("PartsOptions", options), out, timesteps=times,
            blocks=_names(first, recipe, block), weights=first.fingerprint, progress=bar,
        )  # fmt: skip

    result = run()
    page = write_sweep(result, out, force=force)
    typer.echo("\n".join(summary(result)))
    typer.echo(f"{result.computed} of {len(result.cells)} cells were scored now. Report: {page}", err=True)


def _names(source: Source[FeatureMap], recipe: Reading, blocks: list[str] | None) -> list[str]:
    from diffeat.activations import Catalogue
    from diffeat.extraction import Extractor
    from diffeat.studies.sweeps import block_names

    names = Catalogue.of(source.backbone) if isinstance(source, Extractor) else Catalogue.from_model(recipe.model)
    return block_names(recipe, names, _blocks(blocks or []))


def _blocks(texts: list[str]) -> list[str | int]:
    blocks: list[str | int] = []
    for item in items_of(texts):
        numeric = all(part.isdigit() for part in item.split(":"))
        blocks += [int(v) for v in read_numbers([item], "--block")] if numeric else [item]
    return blocks
