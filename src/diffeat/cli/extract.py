"""``diffeat extract``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Option

from diffeat.cli.command import given, refuse
from diffeat.cli.options import Paths
from diffeat.cli.recipe_options import PLACES, load, load_or_start, recipe_of
from diffeat.errors import StoreError, printable

if TYPE_CHECKING:
    from diffeat.extraction import Recipe, Summary


def extract(
    ctx: typer.Context,
    paths: Paths,
    out: Annotated[Path, Option("--out", "-o", help="Folder of the feature store; made or continued.")],
    prompts: Annotated[
        Path | None,
        Option(help="CSV (image,prompt) or JSON file of texts, one per picture; --prompt is for the others."),
    ] = None,
    root: Annotated[str | None, Option(help="Folder that names are relative to; each folder given, if none.")] = None,
    store_dtype: Annotated[str, Option(help="On disk: float32, float16, bfloat16 or int8 (per channel).")] = "float16",
    shard_size: Annotated[int, Option(min=1, help="Pictures per file of the store.")] = 16,
    replace: Annotated[
        bool, Option("--replace", help="Extract pictures anew that are stored with another content or text.")
    ] = False,
    plan: Annotated[
        bool, Option("--plan", help="Read a few pictures, say what all will take (calls, time, disk), and stop.")
    ] = False,
) -> None:
    """Extract dense features of pictures into a store on disk.

    Stop it at any time: the same command goes on where it stopped, and repairs what is damaged. Pictures that cannot be
    read are listed at the end with the reason, and make the exit code 1.

    Pictures may lie in folders, tars, zips, Parquet and Arrow tables, lists and videos, here or at a URL. --plan says
    what they will take, without extracting them; what the disk does not hold is refused either way.

    With --workers, processes of this machine share the work, with --ray the machines of a cluster; the store has the
    same bytes as that of a single process with as many threads.

    Example:
        diffeat samples photos
        diffeat extract photos --out features --plan
        diffeat extract photos --out features
        diffeat extract photos --workers 2 --out features
    """
    from diffeat.extraction import Summary
    from diffeat.extraction.estimate import check_room, estimate
    from diffeat.extraction.filling import Fills
    from diffeat.extraction.to_store import extract_units, plan_units
    from diffeat.features import list_pictures
    from diffeat.features.places.files import is_url
    from diffeat.progress import bar
    from diffeat.storage import FeatureStore

    recipe = recipe_of(ctx)
    asked = given(ctx)
    places = {name: asked[name] for name in PLACES if name in asked}
    listing = list_pictures(paths, root=root, prompts=prompts, default=asked.get("prompt"), **places)
    # before the model is loaded: what cannot be written to is refused at once
    try:
        store = FeatureStore.open_or_create(out, recipe.content(), recipe.hash, dtype=store_dtype)
    except StoreError:
        _check_names(recipe)  # one that is misspelt is the cause, not another recipe
        raise
    summary = Summary()
    with store:
        pictures = [p.told(recipe.text_for(p.text) if p.text else None) for p in listing]
        lone = set(paths) if root is None else set()
        for path, picture in zip(listing.paths, pictures, strict=True):
            if path in lone:  # a file of a folder that was extracted before
                picture.name = store.name_of(path) or picture.name
        units = plan_units(recipe, pictures, store, None, summary, replace=replace, shard_size=shard_size)
        left = [picture for unit in units for picture in unit.pictures]
        folder = None if is_url(str(out)) else Path(out)
        if left and plan:
            refuse(ctx, ["workers", "ray"], "--plan measures one process of this machine")
            expected = estimate(load(ctx, recipe), left, store.packed, folder)
            typer.echo("\n".join(f"{what:<11} {says}" for what, says in expected.table()))
            expected.check()
        elif left:
            source = load_or_start(ctx, recipe, {picture.text for picture in left})
            if not isinstance(source, Fills) and len(left) > shard_size:
                check_room(source, left, store.packed, folder)
            extract_units(source, store, units, summary, bar)
        elif summary.present:
            typer.echo("Nothing is left to do; the model was not loaded, nor compared with the store's.", err=True)
    if not plan:
        _report(summary, listing.skipped, out)
    if summary.failed:
        raise typer.Exit(1)


def _check_names(recipe: Recipe) -> None:
    from diffeat.activations import Catalogue
    from diffeat.extraction import Reading

    if isinstance(recipe, Reading) and isinstance(recipe.activations, tuple):
        Catalogue.from_model(recipe.model).find([a for a in recipe.activations if isinstance(a, str)])


def _report(summary: Summary, skipped: Sequence[tuple[str, str]], out: Path) -> None:
    typer.echo(
        f"{len(summary.extracted)} extracted, {len(summary.present)} already there, {len(summary.failed)} failed, "
        f"{len(skipped)} files that are no pictures → {out}",
        err=True,
    )
    for path, reason in skipped[:10]:
        typer.secho(printable(f"  passed over  {path}: {reason}"), dim=True, err=True)
    if len(skipped) > 10:
        typer.secho(f"  … and {len(skipped) - 10} more files", dim=True, err=True)
    for reason in summary.failed.values():
        typer.secho(f"  failed  {reason}", fg="red", err=True)
