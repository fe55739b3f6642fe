"""``diffeat models``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from diffeat.cli.command import Command
from diffeat.cli.tables import print_table
from diffeat.errors import InvalidValueError, ModelError, UnknownNameError, did_you_mean, shown

if TYPE_CHECKING:
    from diffeat.backbones.hub import Download
    from diffeat.backbones.named import ModelName
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
    from diffeat.backbones.copies import copy_of, in_cache

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
    from diffeat import zoo
    from diffeat.backbones import cards
    from diffeat.backbones.copies import copy_of
    from diffeat.backbones.named import ModelName

    if name not in cards():
        if name in zoo.names() or Path(ModelName.parse(name).name).expanduser().exists():
            raise InvalidValueError(f"Only models of the hub have cards. `diffeat activations {name}` looks inside.")
        known = did_you_mean(name, cards()) or "`diffeat models` lists them."
        raise UnknownNameError(f"There is no card of a model {shown(name)}. {known}")
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

    if variant and recipe:
        raise InvalidValueError("A recipe says itself which variant it reads (model: sd15,variant=fp16); leave it out.")
    wanted = [Need(name) for name in names or ()]
    wanted += [need for name in recipe or () for need in needs(Recipe.load(name))]
    if not wanted:
        raise InvalidValueError("Name a model, or a recipe with --recipe.")
    for need in dict.fromkeys(wanted):
        _get(need, variant, to, plan)


def _get(need: Need, variant: str | None, to: Path | None, plan: bool) -> None:
    from diffeat.backbones import hub
    from diffeat.backbones.loading import model_asked
    from diffeat.progress import bar

    asked = model_asked(need.name, need.revision, variant)
    if (place := _here(need, asked, to)) is not None:
        typer.echo(f"{asked.name}: is here{place}.")
        return
    if need.is_file:
        typer.echo(f"{asked.name}: a file that you have to put here yourself; the recipe says where it comes from.")
        return
    download = _planned(need, asked)
    into = to and to / download.place
    if plan:
        what = f"{len(download.files)} files" if need.file is None else need.file
        kept = download.size - download.absent(into)
        facts = [_size(download.size), *([f"{_size(kept)} are here"] if kept else [])]
        typer.echo(f"{download.place}: {what}, {', '.join(facts)}; {_size(download.left)} are left there")
        return
    _check_space(download, to)
    typer.echo(hub.fetch(download, into=into, check=True, progress=bar))


def _here(need: Need, asked: ModelName, to: Path | None) -> str | None:
    """Where a model is that is not to be fetched, for people: embedded, on this disk, or whole in the mirror folder.

    Raises:
        ModelError: A path that is no model; says what it is.
    """
    from diffeat import zoo
    from diffeat.backbones import hub
    from diffeat.backbones.copies import copy_of
    from diffeat.backbones.files import is_path
    from diffeat.backbones.folder import INDEX
    from diffeat.backbones.foreign import explain
    from diffeat.backbones.loading import local_place, resolve_model

    place = local_place(asked.name)
    if place is not None:
        if not (place.is_file() or any((place / name).is_file() for name in (INDEX, "config.json"))):
            raise explain(str(place))
        return ""
    if asked.name in zoo.names():
        return ""
    if need.is_file or to is not None:
        return None
    for name in resolve_model(str(asked)):
        folder = Path(name) if is_path(name) else hub.mirrored(name, asked.revision, asked.variant)
        copy = copy_of(str(folder)) if folder is not None and need.file is None else None
        whole = copy is not None and not copy.missing
        if folder is not None and (whole or (need.file is not None and (folder / need.file).exists())):
            return f", in {folder}"
    return None


def _planned(need: Need, asked: ModelName) -> Download:
    from diffeat.backbones import hub, loading
    from diffeat.backbones.files import is_path
    from diffeat.backbones.foreign import explain

    def plan(place: str) -> Download:
        if is_path(place):
            raise hub.UnreachableError("not whole") if Path(place).is_dir() else explain(place)
        revision = asked.revision or loading.pinned(asked.name, place)
        return hub.plan(place, revision, asked.variant, weights=need.weights, file=need.file)

    return loading.first_place(str(asked), plan)


def _check_space(download: Download, to: Path | None) -> None:
    """Refuse a download that does not fit, before it is begun."""
    import shutil

    from huggingface_hub import constants

    target = Path(to or constants.HF_HUB_CACHE).absolute()
    folder = next(p for p in (target, *target.parents) if p.exists())
    free, absent = shutil.disk_usage(folder).free, download.absent(to and to / download.place)
    if absent > free:
        raise ModelError(
            f"{download.place} needs {_size(absent)} more, and {folder} has {_size(free)} left. Free some, or give "
            "another folder with --to or HF_HOME."
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e3:.0f} kB"


def _missing(parts: tuple[str, ...]) -> str:
    return f" (lacks {', '.join(parts)})" if parts else ""
