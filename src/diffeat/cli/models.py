"""``diffeat models``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import Command
from diffeat.cli.tables import print_table
from diffeat.errors import InvalidValueError, ModelError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from diffeat.backbones.hub import Download
    from diffeat.extraction.needs import Need

models = typer.Typer(
    invoke_without_command=True,
    help="The models that have a name, and what of them is on this disk; fetch one: diffeat models get NAME.",
)


@models.callback()
def _list(ctx: typer.Context) -> None:
    """List the models that have a name, and what of them is on this disk: in the mirror folder that DIFFEAT_MODELS
    names, or in the cache of the hub."""
    if ctx.invoked_subcommand is not None:
        return
    from diffeat.backbones import cards
    from diffeat.backbones.hub import copy_of, in_cache

    rows, shown = [], set()
    for name, card in cards().items():
        places = [name, *card.ids]
        copies = {place: copy for place in places if (copy := copy_of(place)) is not None}
        shown |= copies.keys()
        here = "; ".join(_size(copy.size) + _missing(copy.missing) for copy in copies.values())
        size = f"{card.size[0]}×{card.size[1]}"
        rows.append([name, card.family, size, card.licence + (", gated" if card.gated else ""), here])
    for place in in_cache():
        copy = copy_of(place)
        if place not in shown and copy is not None:
            rows.append([place, "", "", "", _size(copy.size) + _missing(copy.missing)])
    print_table(["model", "family", "made for", "licence", "on this disk"], rows, text=("family", "licence"))


@models.command(cls=Command)
def show(name: Annotated[str, Argument(help="Name of a model.")]) -> None:
    """Show what is known of one model: its places, licence, and massive channels, and what of it is on this disk.

    Example:
        diffeat models show sd21
    """
    from diffeat.backbones import cards
    from diffeat.backbones.hub import copy_of

    if name not in cards():
        raise UnknownNameError(f"There is no card of a model {name!r}. {did_you_mean(name, cards())}".strip())
    card = cards()[name]
    typer.echo(f"{name}: {card.family}, made for {card.size[0]}×{card.size[1]}, predicts {card.prediction}")
    typer.echo(f"licence: {card.licence}{', to be accepted on the hub' if card.gated else ''}")
    if card.weights:
        typer.echo(f"weights: {card.weights}, for `diffeat convert`")
    for place in card.ids:
        revision = f", revision {card.revision}" if card.revision and place == card.ids[0] else ""
        typer.echo(f"place: {place}{revision}")
    for massive in card.massive:
        where = f" at {', '.join(massive.activations)}" if massive.activations else ""
        typer.echo(f"massive channels{where}: {', '.join(map(str, massive.channels))} ({massive.source})")
    for place in (name, *card.ids):
        copy = copy_of(place)
        if copy is not None:
            typer.echo(f"here: {copy.path}, {_size(copy.size)}{_missing(copy.missing)}")


@models.command(cls=Command)
def get(
    names: Annotated[list[str] | None, Argument(help="Names of models or hub ids.")] = None,
    recipe: Annotated[
        list[str] | None, Option("--recipe", "-r", help="All that this recipe names; repeatable.")
    ] = None,
    to: Annotated[Path | None, Option(help="Mirror folder to write to, in place of the hub's cache.")] = None,
    variant: Annotated[str | None, Option(help="Of the weights, such as fp16.")] = None,
    plan: Annotated[bool, Option("--plan", help="Say what would be fetched, and fetch nothing.")] = False,
) -> None:
    """Fetch models, and only what is used of them: no safety checker, weights in one format and one variant. What was
    fetched by halves is gone on with; sizes and SHA-256 digests are compared with what the hub tells.

    The places of a model are tried in order. A mirror folder serves machines without a connection: copy it there and
    set DIFFEAT_MODELS to it.

    Example:
        diffeat models get sd21 --plan
        diffeat models get sd21
        diffeat models get --recipe cleandift-sd21 --to models
    """
    from diffeat.extraction import Recipe
    from diffeat.extraction.needs import Need, needs

    wanted = [Need(name) for name in names or ()]
    wanted += [need for name in recipe or () for need in needs(Recipe.load(name))]
    if not wanted:
        raise InvalidValueError("Name a model, or a recipe with --recipe.")
    for need in dict.fromkeys(wanted):
        _get(need, variant, to, plan)


def _get(need: Need, variant: str | None, to: Path | None, plan: bool) -> None:
    from diffeat import zoo
    from diffeat.backbones import cards, hub
    from diffeat.backbones.named import ModelName

    name = ModelName.parse(need.name).name
    if name in zoo.names() or Path(name).exists():
        typer.echo(f"{name}: is here.")
        return
    if "/" not in name and need.file is None and name not in cards() and Path(name).suffix:
        typer.echo(f"{name}: a file that you have to put here yourself; the recipe says where it comes from.")
        return
    if need.file is not None:
        if plan:
            typer.echo(f"{name}: {need.file}")
            return
        typer.echo(hub.fetch_file(name, need.file, need.revision, into=to and to / name))
        return
    download = _planned(need, variant)
    if plan:
        facts = f"{len(download.files)} files, {_size(download.size)}; {_size(download.left)} are left there"
        typer.echo(f"{download.place}: {facts}")
        return
    _check_space(download, to)
    from diffeat.progress import bar

    typer.echo(hub.fetch(download, into=to and to / download.place, check=True, progress=bar))


def _planned(need: Need, variant: str | None) -> Download:
    from diffeat.backbones import hub, loading
    from diffeat.backbones.named import ModelName

    asked = ModelName.parse(need.name)

    def plan(place: str) -> Download:
        revision = need.revision or asked.revision or loading.pinned(asked.name, place)
        return hub.plan(place, revision, variant or asked.variant)

    return loading.first_place(asked.name, plan)


def _check_space(download: Download, to: Path | None) -> None:
    """Refuse a download that does not fit, before it is begun."""
    import shutil

    from huggingface_hub import constants

    target = Path(to or constants.HF_HUB_CACHE).absolute()
    folder = next(p for p in (target, *target.parents) if p.exists())
    free = shutil.disk_usage(folder).free
    if download.size > free:
        raise ModelError(
            f"{download.place} needs {_size(download.size)}, and {folder} has {_size(free)} left. Free some, or give "
            "another folder with --to or HF_HOME."
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e3:.0f} kB"


def _missing(parts: tuple[str, ...]) -> str:
    return f" (lacks {', '.join(parts)})" if parts else ""
