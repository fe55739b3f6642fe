"""Options that say which recipe is read and what is changed in it, for every command that reads features."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, overload

import typer

from diffeat.cli.command import Command, flag, given, option, options, refuse
from diffeat.cli.ranges import read_numbers
from diffeat.errors import InvalidValueError, clipped, shown

if TYPE_CHECKING:
    from diffeat.distributed import Workers
    from diffeat.extraction import Extractor, Reading, Recipe
    from diffeat.features import FeatureMap, Picture, Source

#: Short forms of changes to a diffusion model's recipe, and the fields they change (of ``size`` see :func:`_field`).
_FIELDS = {
    "--model": "model",
    "--activation": "activations",
    "--timestep": "trajectory.timesteps",
    "--seed": "seed",
}
#: How pictures are found where a file holds many: arguments of :func:`diffeat.features.list_pictures`.
PLACES = ("fps", "column", "caption_column", "name_column")
#: All options that change a recipe.
CHANGES = frozenset({"model", "activation", "timestep", "seed", "size", "set", "prompt"})


_RECIPE = partial(option, panel="Recipe")
_PLACES = partial(option, panel="Pictures")
_COMPUTING = partial(option, panel="Computing")
_OPTIONS = {
    "recipe": _RECIPE(list[str], "Preset (see `diffeat recipes`), YAML file or vision:MODEL[,layer=L][,size=S].", "-r"),
    "weight": _RECIPE(list[float], "How much each of several recipes counts; equal by default."),
    "set": _RECIPE(list[str], "Change a field, e.g. trajectory.draws=2; repeatable.", metavar="FIELD=VALUE"),
    "model": _RECIPE(str, "Model: alias, hub id or local pipeline folder.", "-m"),
    "activation": _RECIPE(list[str], "Id, alias or glob; repeatable.", "-a"),
    "timestep": _RECIPE(list[str], "0…999 (flow: to 1000), or a range FROM:TO:STEP; repeatable.", "-t"),
    "size": _RECIPE(int, "Side of the pictures, or the longer one, in pixels.", min=1),
    "seed": _RECIPE(int, "Of the noise."),
    "prompt": _RECIPE(str, "Text for all pictures; goes through the recipe's template."),
    "allow_code": _RECIPE(bool, "Import and run functions that the recipe names (module:function).", is_flag=True),
    "fps": _PLACES(float, "Frames per second of videos; 1 if not given."),
    "column": _PLACES(str, "Of tables and lists: the pictures."),
    "caption_column": _PLACES(
        str, "Text for each picture: a column; beside files, and in tars, an ending (txt) or a key of the .json."
    ),
    "name_column": _PLACES(str, "Of tables and lists: the pictures' names."),
    "device": _COMPUTING(str, "cpu, cuda, cuda:1, mps …; the first accelerator if there is one."),
    "dtype": _COMPUTING(str, "float32, bfloat16 or float16; bfloat16 on an accelerator, else float32."),
    "batch_size": _COMPUTING(int, "Rows of one denoiser call; chosen by memory if not given.", min=1),
}
_WORKERS = {
    "optimise": _COMPUTING(list[str], "channels-last, or compile (blocks that repeat): other last bits; repeatable."),
    "workers": _COMPUTING(int, "Processes that extract: each on a GPU, or on its share of the processor.", min=1),
    "ray": _COMPUTING(str, "Address of a Ray cluster whose machines extract: host:port, auto or local."),
}


class RecipeCommand(Command):
    """A command that reads features.

    Attributes:
        default: The recipe if none is named; empty where one must be.
        several: Whether more than one recipe may be named; their maps are joined.
        paths: Whether it takes pictures by their paths.
        without: Options that the command does not use.
        workers: Whether it keeps features in a store, so that workers can extract them.
    """

    default: ClassVar[str] = ""
    paths: ClassVar[bool] = False
    several: ClassVar[bool] = True
    without: ClassVar[Collection[str]] = ()
    workers: ClassVar[bool] = False

    def shared(self) -> list[Any]:
        hidden = {*self.without, *(() if self.several else ("weight",)), *(() if self.paths else PLACES)}
        offered = {**_OPTIONS, **(_WORKERS if self.workers else {})}
        recipe, *others = options({name: made for name, made in offered.items() if name not in hidden})
        recipe.help += " Repeat to join several." if self.several else ""
        recipe.help += f" \\[default: {self.default}]" if self.default else ""
        return [recipe, *others, *super().shared()]


def reads(
    default: str = "",
    *,
    several: bool = True,
    paths: bool = False,
    without: Collection[str] = (),
    workers: bool = False,
    base: type[Command] = Command,
) -> Any:
    """A :class:`RecipeCommand`, for ``app.command(cls=…)``.

    Args:
        base: What else the command is.
    """
    fields = {"default": default, "several": several, "paths": paths, "without": without, "workers": workers}
    return type("RecipeCommand", (RecipeCommand, base), fields)


def recipe_of(ctx: typer.Context, used_elsewhere: Collection[str] = ()) -> Recipe:
    """The recipe that the command line asks for: those named joined, and changed.

    Args:
        used_elsewhere: Options that may change nothing in the recipe, because they are used for something else too.

    Raises:
        DiffeatError: No such recipe, changes that do not fit, or that no recipe has a field for.
    """
    from diffeat.extraction import Recipe, join_recipes
    from diffeat.techniques.named import code_allowed

    asked = given(ctx)
    with code_allowed("allow_code" in asked):
        recipes = [Recipe.load(name) for name in _names(ctx)]
        recipe = _changed(join_recipes(recipes, asked.get("weight")), asked, used_elsewhere)
    if recipe.tasks:
        from diffeat.tasks.registry import check_options

        check_options(recipe)
    return recipe


def reading_of(ctx: typer.Context, base: Reading | None = None) -> Reading:
    """Like :func:`recipe_of`, of a command that takes a single diffusion model; ``--prompt`` becomes its text.

    Args:
        base: In place of the recipe by name.

    Raises:
        InvalidValueError: Several recipes, or one of another kind.
    """
    from diffeat.extraction import Reading
    from diffeat.techniques.named import code_allowed

    names = _names(ctx) if base is None else [base.name]
    if len(names) > 1:
        raise InvalidValueError(f"This command takes one recipe, got {len(names)}: {', '.join(names)}.")
    refuse(ctx, ["weight"], "there is one recipe")
    asked = given(ctx)
    with code_allowed("allow_code" in asked):
        reading = Reading.load(_changed(base or Reading.load(names[0]), asked))
    return reading.replace(prompt=reading.text_for(asked["prompt"])) if "prompt" in asked else reading


def _names(ctx: typer.Context) -> list[str]:
    default = getattr(ctx.command, "default", "")
    names = given(ctx).get("recipe") or ([default] if default else [])
    if not names:
        raise InvalidValueError("This command needs a recipe: give --recipe.")
    return names


@overload
def load(ctx: typer.Context, recipe: Reading) -> Extractor: ...
@overload
def load(ctx: typer.Context, recipe: Recipe, texts: Collection[str | None] | None = None) -> Source[FeatureMap]: ...
def load(ctx: typer.Context, recipe: Recipe, texts: Collection[str | None] | None = None) -> Any:
    """Load the models, telling on standard error what is being loaded.

    Args:
        texts: As :func:`~diffeat.extraction.load_source` takes them.
    """
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(f"Loading {getattr(recipe, 'model', recipe.name)} …")):
        from diffeat.extraction import load_source

        return load_source(recipe, texts=texts, **_computing(ctx))


@overload
def load_or_start(ctx: typer.Context, recipe: Reading) -> Extractor | Workers: ...
@overload
def load_or_start(
    ctx: typer.Context, recipe: Recipe, texts: Collection[str | None] | None = None
) -> Source[FeatureMap]: ...
def load_or_start(ctx: typer.Context, recipe: Recipe, texts: Collection[str | None] | None = None) -> Any:
    """Likewise, or have the workers that the command line asks for do so when they are needed."""
    asked = given(ctx)
    if "workers" not in asked and "ray" not in asked:
        return load(ctx, recipe, texts)
    from diffeat.distributed import start_workers

    workers = start_workers(recipe, asked.get("workers"), ray=asked.get("ray"), texts=texts, **_computing(ctx))
    ctx.call_on_close(workers.close)
    return workers


def _computing(ctx: typer.Context) -> dict[str, Any]:
    asked = given(ctx)
    return {name: asked.get(name) for name in ("device", "dtype", "batch_size")} | {
        "optimise": asked.get("optimise", ())
    }


def maps_of_two(ctx: typer.Context, one: Picture, other: Picture) -> tuple[FeatureMap, FeatureMap]:
    """The maps of two pictures by the recipe that the command line asks for, which gives one of each.

    Raises:
        InvalidValueError: The recipe gives several, as far as can be told before the model is loaded.
    """
    from diffeat.features import check_one_map

    recipe = recipe_of(ctx)
    check_one_map(recipe.name, recipe.map_names)
    source = load(ctx, recipe)
    check_one_map(recipe.name, source.map_names)
    first, second = source.extract([one, other], given(ctx).get("prompt"))
    return first, second


def _changed(recipe: Recipe, asked: dict[str, Any], used_elsewhere: Collection[str] = ()) -> Recipe:
    """The recipe with the changes that were asked for, each made wherever there is the field."""
    from diffeat.extraction import Reading, Vision

    changes = dict(_changes(asked))
    used = {flag(name) for name in used_elsewhere}
    changed = _replaced(recipe, changes, used)
    kinds = {type(part) for part in recipe.single()}
    unused = [change for change in changes if change not in used]
    if Reading not in kinds:
        unused += [flag(name) for name in ("prompt", "batch_size", "optimise") if name in asked]
    if kinds.isdisjoint({Reading, Vision}):
        unused += [flag(name) for name in ("device", "dtype") if name in asked]
    for change in unused:
        if change.startswith("--"):
            raise InvalidValueError(f"{change} would be ignored: {recipe.name!r} has no use for it.")
        place = change.split(".")[0]
        parts = sorted(recipe.single(), key=lambda part: not get_close_matches(place, type(part).model_fields))
        parts[0].replace(**{change: changes[change]})  # raises, and tells the nearest field
    return changed


def _changes(asked: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What to change: by the flag of a short form, or by the field of ``--set``."""
    from diffeat.extraction.recipe import read_yaml

    for name in ("model", "activation", "size", "seed"):
        if name in asked:
            yield flag(name), asked[name]
    if "timestep" in asked:
        yield "--timestep", read_numbers(asked["timestep"], "--timestep")
    for text in asked.get("set", ()):
        field, equals, value = text.partition("=")
        if not (field and equals):
            raise InvalidValueError(f"--set takes FIELD=VALUE, such as trajectory.draws=2, not {shown(text)}.")
        yield field, read_yaml(value, f"The value in --set {shown(text)}")


def _replaced(recipe: Recipe, changes: dict[str, Any], used: set[str]) -> Recipe:
    """The recipe, and those it joins, with the changes that they have fields for; adds these to ``used``."""
    from diffeat.extraction import Joined

    values: dict[str, Any] = {}
    if isinstance(recipe, Joined):
        parts = tuple(_replaced(part, changes, used) for part in recipe.parts)
        if parts != recipe.parts:
            values["parts"] = parts
    for change, value in changes.items():
        field = _field(change, recipe)
        if field in values:
            raise InvalidValueError(f"{clipped(field)} is given twice.")
        if field:
            values[field] = value
            used.add(change)
    return recipe.replace(**values) if values else recipe


def _field(change: str, recipe: Recipe) -> str:
    """The field of a recipe that a change is made to; empty where there is none."""
    from diffeat.extraction import Baseline, Joined, Reading, Vision

    if isinstance(recipe, Reading):
        keep = recipe.frame.mode == "keep"
        side = "frame.size" if not keep else "frame.shorter" if recipe.frame.shorter else "frame.longer"
        short = {**_FIELDS, "--size": side}
    else:
        short = {Vision: {"--size": "size"}, Baseline: {"--size": "longer"}}.get(type(recipe), {})
    own = {"join", "weights", "network"} if isinstance(recipe, Joined) else type(recipe).model_fields
    return short.get(change) or (change if change.split(".")[0] in own else "")
