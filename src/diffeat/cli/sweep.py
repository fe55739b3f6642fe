"""``diffeat sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffeat.cli.options import BatchSize, Device, Draws, Dtype, ModelName, Size, changed_recipe, make_extractor


def sweep(
    recipe: Annotated[str, typer.Argument(help="Preset name or YAML file whose timestep and block are to be chosen.")],
    timesteps: Annotated[
        str, typer.Option(help="Timesteps to try: numbers and ranges FROM:TO:STEP, by commas, e.g. 20,60:500:40.")
    ],
    blocks: Annotated[
        str,
        typer.Option(
            help="Blocks to try: numbers and ranges put into the recipe's activation (ditf:28 → ditf:k), or ids, "
            "aliases and globs, by commas."
        ),
    ],
    on: Annotated[str, typer.Option(help="Dataset of pairs, see `diffeat eval --help`.")] = "toyworld",
    root: Annotated[
        Path | None, typer.Option(help="The dataset's folder; the toy world is drawn if there is none.")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split to choose on; val if not given, where there are splits.")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="As in `diffeat eval`.")] = None,
    prompts: Annotated[str | None, typer.Option(help="As in `diffeat eval`.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="About so many pairs, spread evenly.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of cells and report; a later run goes on with its cells.")
    ] = Path("sweep"),
    model: ModelName = None,
    draws: Draws = None,
    size: Size = None,
    device: Device = None,
    dtype: Dtype = None,
    batch_size: BatchSize = None,
) -> None:
    """Choose a recipe's timestep and block: score every combination on a dataset, as a heat map.

    Each timestep is extracted once for all blocks. Stop it at any time; the same command, or one with more timesteps
    and blocks, goes on with the cells that are done. Write-up and best.yaml lie in the folder.
    """
    from diffeat.activations import Catalogue
    from diffeat.cli.ranges import read_numbers
    from diffeat.datasets.registry import get_card, open_dataset
    from diffeat.datasets.toyworld_spair import write_toyworld_pairs
    from diffeat.evaluation.texts import read_policy
    from diffeat.extraction import Extractor
    from diffeat.progress import bar
    from diffeat.report.sweep import summary, write_sweep
    from diffeat.studies.sweeps import block_names
    from diffeat.studies.sweeps import sweep as run
    from diffeat.tasks.correspondence.protocol import get_protocol

    times = read_numbers(timesteps, "--timesteps")
    if on == "toyworld" and root is None:
        root = write_toyworld_pairs(out / "toyworld", images={"trn": 0, "val": 4, "test": 10})
    card = get_card(on, "pairs")
    pairs = open_dataset(on, root, split or card.split_to_choose_on(), kind="pairs").limited(limit)
    chosen = changed_recipe(recipe, model=model, draws=draws, size=size)
    first = make_extractor(chosen, device, dtype, batch_size)
    names = block_names(chosen, Catalogue.of(first.backbone), _blocks(blocks))
    found = run(
        chosen,
        lambda r: Extractor(r, first.backbone, batch_size=batch_size),
        pairs,
        get_protocol(protocol or card.protocol),
        out,
        timesteps=times,
        blocks=names,
        prompts=read_policy(prompts),
        weights=first.fingerprint,
        progress=bar,
    )
    page = write_sweep(found, out)
    for line in summary(found):
        typer.echo(line)
    typer.echo(f"{found.computed} of {len(found.cells)} cells were scored now. Report: {page}", err=True)


def _blocks(text: str) -> list[str | int]:
    from diffeat.cli.ranges import read_numbers

    found: list[str | int] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        numeric = all(part.isdigit() for part in item.split(":"))
        found += [int(v) for v in read_numbers(item, "--blocks")] if numeric else [item]
    return found
