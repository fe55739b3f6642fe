"""``diffeat toyworld``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import Command
from diffeat.cli.options import Force
from diffeat.cli.ranges import read_counts

toyworld = typer.Typer(no_args_is_help=True, help="The procedural dataset with exact keypoints.")


@toyworld.callback()
def _group() -> None:
    pass


@toyworld.command(cls=Command)
def write(
    folder: Annotated[Path, Argument(help="Where to; made if missing.")],
    seed: Annotated[int, Option(help="Which world; different seeds share nothing.")] = 7,
    size: Annotated[int, Option(min=32, help="Side of the pictures in pixels.")] = 128,
    pairs: Annotated[int, Option(min=1, help="Pairs per class and split.")] = 30,
    images: Annotated[
        str, Option(metavar="TRAIN,VAL,TEST", help="Pictures per class in each split.", show_default=True)
    ] = "8,4,10",
    only: Annotated[list[str] | None, Option("--class", help="Only this class; repeatable.")] = None,
    force: Force = False,
) -> None:
    """Write the toy world as a correspondence dataset, in the layout of SPair-71k.

    Example:
        diffeat toyworld write toy --pairs 2
        diffeat eval toyworld --root toy --limit 20
    """
    from diffeat.datasets.toyworld_spair import SPLITS, write_toyworld_pairs
    from diffeat.progress import bar

    counts = dict(zip(SPLITS, read_counts(images, "--images"), strict=True))
    write_toyworld_pairs(
        folder, seed=seed, size=size, classes=only, images=counts, pairs=pairs, progress=bar, force=force
    )
    for split in SPLITS:
        listed = (folder / "Layout" / "large" / f"{split}.txt").read_text(encoding="utf-8").split()
        none = "" if listed else " (two pictures of a class with points in common are needed: give more --images)"
        typer.echo(f"{split}: {len(listed)} pairs{none}")
