"""``diffeat store``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from diffeat.cli.command import Command


class _Store(TyperGroup):
    """What is no command of the group is a folder to show."""

    default = "show"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [self.default, *args]
        return super().parse_args(ctx, args)


store = typer.Typer(
    cls=_Store,
    no_args_is_help=True,
    help="Look at a feature store, check, compact or export it, or merge several: diffeat store FOLDER [--verify].",
)

Stored = Annotated[str, Argument(help="Folder of a feature store, or its URL.")]


@store.command(cls=Command)
def show(
    folder: Stored,
    verify: Annotated[bool, Option("--verify", help="Read everything and check it.")] = False,
) -> None:
    """Show what a feature store holds, or check that it is whole.

    Example:
        diffeat samples photos
        diffeat extract photos --out features
        diffeat store show features --verify
    """
    from diffeat.storage import FeatureStore

    opened = FeatureStore.open(folder)
    if not verify:
        typer.echo(opened.listing())
        return
    report = opened.verify()
    typer.echo(str(report))
    if report.problems:
        raise typer.Exit(1)


@store.command(cls=Command)
def compact(
    folder: Stored,
    shard_size: Annotated[int, Option(min=1, help="Pictures per file of the store.")] = 16,
) -> None:
    """Give back the space of replaced pictures, join small files, and make a large store quick to open.

    Nothing that counts changes, whenever it is stopped. What interrupted runs left is removed.

    Example:
        diffeat samples photos
        diffeat extract photos --out features
        diffeat store compact features
    """
    from diffeat.storage import compact
    from diffeat.storage.report import readable

    done = compact(folder, shard_size)
    typer.echo(
        f"{done.pictures} pictures in {done.shards} shards; {done.removed} files that did not count were removed "
        f"({readable(done.size)})"
    )


@store.command(cls=Command)
def merge(
    folders: Annotated[list[str], Argument(help="Folders or URLs of feature stores of one recipe.")],
    out: Annotated[str, Option("--out", "-o", help="Folder or URL of the store that takes all; made or continued.")],
) -> None:
    """Copy the pictures of several stores of one recipe into one.

    The others stay as they are. A name that stands for different pictures is refused before anything is copied. One
    store alone is copied, from a disk to an object store, say.

    Example:
        diffeat samples photos
        diffeat extract photos --out one
        diffeat extract photos --out two
        diffeat store merge one two --out both
    """
    from diffeat.storage import merge

    typer.echo(f"{len(merge(folders, out))} pictures → {out}")


@store.command(cls=Command)
def export(
    folder: Stored,
    out: Annotated[Path, Option("--out", "-o", help="Folder to make.")],
    form: Annotated[str, Option("--as", help="numpy, safetensors, webdataset or parquet.")],
    activation: Annotated[
        list[str] | None, Option("--activation", "-a", help="Only this activation; repeatable.")
    ] = None,
) -> None:
    """Write features for other programs: NumPy arrays, tensors, tar files of WebDataset, or Parquet tables.

    The folder appears when all of it is there.

    Example:
        diffeat samples photos
        diffeat extract photos --out features
        diffeat store export features --as numpy --out arrays
    """
    from diffeat.progress import bar
    from diffeat.storage import export

    typer.echo(f"{export(folder, out, form, activation, bar)} pictures → {out}")
