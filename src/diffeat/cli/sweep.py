"""``diffeat sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from diffeat.cli.options import Force, Limit, PairsName, Prompts, Protocol, Root, Timesteps
from diffeat.cli.ranges import items_of, read_numbers
from diffeat.cli.recipe_options import load_or_start, reading_of
from diffeat.cli.task_options import protocol_of
from diffeat.files import new_folder


def sweep(
    ctx: typer.Context,
    timestep: Timesteps,
    block: Annotated[
        list[str], Option("--block", "-b", help="To try: ids, aliases, globs, or K and FROM:TO for ditf:K; repeatable.")
    ],
    dataset: PairsName = "toyworld",
    root: Root = None,
    split: Annotated[str | None, Option(help="Split to choose on; val if not given, where there are splits.")] = None,
    protocol: Protocol = None,
    prompts: Prompts = None,
    limit: Limit = None,
    out: Annotated[Path, Option("--out", "-o", help="Folder of cells and report; continued.")] = Path("sweep"),
    force: Force = False,
) -> None:
    """Choose a recipe's timestep and block: score every combination on a dataset, as a heat map.

    Each timestep is extracted once for all blocks. Stop it at any time; the same command, or one with more timesteps
    and blocks (and --force, where there is a report), goes on with the cells that are done. Write-up and best.yaml lie
    in the folder. The toy world is drawn if it has no --root.

    Example:
        diffeat sweep -r ditf-tiny -t 20:500:160 -b 3:6 --limit 20 --out sweep
    """
    from diffeat.activations import Catalogue
    from diffeat.datasets.registry import get_card, open_dataset
    from diffeat.datasets.toyworld_spair import write_toyworld_pairs
    from diffeat.evaluation.texts import read_policy
    from diffeat.extraction import Extractor
    from diffeat.progress import bar
    from diffeat.report.sweep import FILES, summary, write_sweep
    from diffeat.studies.sweeps import block_names
    from diffeat.studies.sweeps import sweep as run

    new_folder(out, FILES, force=force)
    times = read_numbers(timestep, "--timestep")
    recipe = reading_of(ctx)
    recipe.replace(fuse=None, **{"trajectory.timesteps": times[:1]})  # refused before anything is loaded
    card = get_card(dataset, "pairs")
    if dataset == "toyworld" and root is None:
        root = write_toyworld_pairs(out / "toyworld", images={"trn": 0, "val": 4, "test": 10})
    pairs = open_dataset(dataset, root, split or card.split_to_choose_on(), kind="pairs").limited(limit)
    first = load_or_start(ctx, recipe)
    names = Catalogue.of(first.backbone) if isinstance(first, Extractor) else Catalogue.from_model(recipe.model)
    result = run(
        recipe,
        first.of,
        pairs,
        protocol_of(protocol, recipe, card.protocol),
        out,
        timesteps=times,
        blocks=block_names(recipe, names, _blocks(block)),
        prompts=read_policy(prompts),
        weights=first.fingerprint,
        progress=bar,
    )
    page = write_sweep(result, out, force=force)
    typer.echo("\n".join(summary(result)))
    typer.echo(f"{result.computed} of {len(result.cells)} cells were scored now. Report: {page}", err=True)


def _blocks(texts: list[str]) -> list[str | int]:
    blocks: list[str | int] = []
    for item in items_of(texts):
        numeric = all(part.isdigit() for part in item.split(":"))
        blocks += [int(v) for v in read_numbers([item], "--block")] if numeric else [item]
    return blocks
