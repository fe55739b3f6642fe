"""``diffeat store``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from diffeat.cli.command import Command, given, refuse
from diffeat.cli.recipe_options import load, reads, recipe_of


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
    help="Look at a feature store, search, check, compact or export it, or merge several: diffeat store FOLDER.",
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
def find(
    folder: Stored,
    text: Annotated[str, Argument(help="A part of the name, or a pattern of it with * and ?.")] = "",
    start: Annotated[int, Option(min=0, help="The first to be listed, from 0.")] = 0,
    limit: Annotated[int, Option(min=1, help="Names to list.")] = 100,
) -> None:
    """List pictures of a feature store by their names, a page at a time.

    Example:
        diffeat samples photos
        diffeat extract photos --out features
        diffeat store find features "*.jpg"
    """
    from diffeat.errors import printable
    from diffeat.storage import FeatureStore

    page = FeatureStore.open(folder).find(text, start, limit)
    for name in page.names:
        typer.echo(printable(name))
    if not page.names or start or page.total > limit:
        typer.echo(f"{len(page.names)} of {page.total} names, from {start}", err=True)


@store.command(cls=reads(without=("activation",)))
def nearest(
    ctx: typer.Context,
    folder: Stored,
    picture: Annotated[str, Argument(help="Name or digest of a picture of the store, or a file, with its recipe.")],
    count: Annotated[int, Option("--count", "-k", min=1, help="Pictures to find.")] = 10,
    activation: Annotated[
        list[str] | None, Option("--activation", "-a", help="Compare by this map only; repeatable.")
    ] = None,
) -> None:
    """Find the pictures of a feature store that are most like one, by the cosine of their pooled features.

    At first all features are read once; what is pooled is kept in the store's folder, and nothing else there changes.

    Example:
        diffeat samples photos
        diffeat extract photos --out features
        diffeat store nearest features chelsea.png
    """
    from diffeat.errors import InvalidValueError, printable, shown
    from diffeat.features import Picture
    from diffeat.progress import bar
    from diffeat.storage import FeatureStore
    from diffeat.storage.similar import EXACT

    opened = FeatureStore.open(folder)
    query: Any = picture if picture in opened else opened.name_of(picture)
    if query is not None:
        refuse(ctx, given(ctx), f"{shown(query)} is in the store")
    elif not Path(picture).is_file():
        query = opened.named(picture)  # tells what there is
    else:
        recipe = recipe_of(ctx)
        if recipe.hash != opened.recipe_hash:
            raise InvalidValueError(
                f"Recipe {recipe.name!r} ({recipe.hash[:12]}) is not the store's ({opened.recipe_hash[:12]}): give the "
                "one that it was extracted by, with the same changes."
            )
        query = load(ctx, recipe).extract([Picture.of(picture)])[0]
    pooled = opened.pooled(activation, progress=bar)
    if pooled.exact and len(pooled) > EXACT:
        typer.echo(
            f"{len(pooled):,} pictures are compared one by one; faiss, where it is installed, is faster", err=True
        )
    for similar in pooled.nearest(query, count):
        typer.echo(f"{similar.cosine:7.4f}  {printable(similar.name)}")


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
