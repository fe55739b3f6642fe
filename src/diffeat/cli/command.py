"""What all commands share: help that ends in an example, options declared once, unused options refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial
from inspect import Parameter, Signature
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args

import typer
from typer.core import TyperCommand
from typer.main import get_command

from diffeat.errors import InvalidValueError
from diffeat.progress import end_lines

if TYPE_CHECKING:
    from diffeat.datasets.card import Kind

_GIVEN = "diffeat.given"

#: Commands of which a call that is stopped leaves finished work in its --out, which the same command goes on from.
GO_ON = (
    "extract", "eval", "predict", "select", "sweep", "reproduce", "models get", "store merge", "store compact",
    "train segmentation", "train depth", "train normals", "train clean", "train amalgamation", "train hyperfeatures",
    "train convolution",
)  # fmt: skip
_KEPT = " What was finished is kept; the same command goes on from there."


class Command(TyperCommand):
    """A command; what follows ``Example:`` in its docstring is shown as it is, ready to be copied.

    ``{datasets}``, ``{pairs}``, ``{techniques}`` and the like in its help stand for names, looked up when it is
    shown.
    """

    def __init__(self, *arguments: Any, help: str | None = None, **settings: Any) -> None:
        text, _, example = (help or "").partition("Example:")
        self.example = dedent(example).strip()
        paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
        super().__init__(*arguments, help="\n\n".join(paragraphs).strip(), **settings)

    def shared(self) -> list[Any]:
        """Options besides those of the function; their values lie in :func:`given`."""
        return []

    def get_params(self, ctx: Any) -> list[Any]:
        *declared, last = super().get_params(ctx)
        by_name: dict[str, Any] = {}
        for parameter in (*declared, *self._shared, last):  # --help stays last
            by_name.setdefault(parameter.name, parameter)
        return list(by_name.values())

    @cached_property
    def _shared(self) -> list[Any]:
        return self.shared()

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            name = ctx.command_path.partition(" ")[2]
            nowhere = name == "eval" and ctx.params.get("out") is None
            kept = name.startswith(GO_ON) and not ctx.params.get("plan") and not nowhere
            end_lines()
            typer.echo(f"Stopped.{_KEPT if kept else ''}", err=True)
            raise

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for parameter in self.get_params(ctx):
            if text := getattr(parameter, "help", None):
                setattr(parameter, "help", filled(text))  # noqa: B010 (arguments and options share no class that has it)
        super().format_help(ctx, formatter)
        if self.example:
            typer.echo(" Example:\n\n" + "".join(f"   {line}\n" for line in self.example.splitlines()))


class DataCommand(Command):
    """A command with the options of the cards of datasets of some kinds."""

    kinds: ClassVar[tuple[Kind, ...]] = ()

    def shared(self) -> list[Any]:
        from diffeat.datasets.registry import DATASETS

        declared: dict[str, Any] = {}
        for card in DATASETS.values():
            for name, text in card.options.items() if card.kind in self.kinds else ():
                declared.setdefault(name, option(str, text, panel=f"{card.kind.capitalize()}: {card.name}"))
        return [*super().shared(), *options(declared)]


def reading(ctx: typer.Context, *kinds: Kind) -> dict[str, Any]:
    """Those shared options on the command line that say how a dataset of these kinds is read."""
    from diffeat.datasets.registry import DATASETS

    names = {name for card in DATASETS.values() if card.kind in kinds for name in card.options}
    return {name: value for name, value in given(ctx).items() if name in names}


def _datasets(*kinds: Kind) -> str:
    from diffeat.datasets.registry import dataset_names

    return dataset_names(*kinds)


def _techniques() -> str:
    from diffeat.techniques.parse import usage

    return usage()


_NAMES: dict[str, Callable[[], str]] = {
    "{datasets}": _datasets,
    "{pairs}": lambda: _datasets("pairs"),
    "{labelled}": lambda: _datasets("label maps"),
    "{depth}": lambda: _datasets("depth"),
    "{normals}": lambda: _datasets("normals"),
    "{dense}": lambda: _datasets("label maps", "depth", "normals"),
    "{learned}": lambda: _datasets("pairs", "label maps"),
    "{techniques}": _techniques,
}


def filled(text: str) -> str:
    """A help text with the names that its words in braces stand for."""
    for word, names in _NAMES.items():
        if word in text:
            text = text.replace(word, names())
    return text


def option(kind: Any, help: str, *short: str, panel: str, **settings: Any) -> Any:
    """An option of :func:`options`.

    Args:
        kind: Of its values; a list for one that may be repeated.
    """
    return lambda name: Annotated[
        kind | None, typer.Option(flag(name), *short, help=help.replace("[", "\\["), rich_help_panel=panel, **settings)
    ]


def options(declared: Mapping[str, Any]) -> list[Any]:
    """Options by name, which leave their values in :func:`given`; typer makes them from a function's parameters."""

    def function(**_: object) -> None: ...

    function.__annotations__ = {name: annotated(name) for name, annotated in declared.items()}
    function.__signature__ = Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [Parameter(n, Parameter.KEYWORD_ONLY, default=None, annotation=a) for n, a in function.__annotations__.items()]
    )
    app = typer.Typer(add_completion=False)
    app.command()(function)
    made = get_command(app).params
    for parameter in made:
        is_path = Path in get_args(get_args(function.__annotations__[str(parameter.name)])[0])
        parameter.expose_value, parameter.callback = False, partial(_remember, is_path)
    return made


def _remember(is_path: bool, ctx: Any, option: Any, value: Any) -> None:
    if is_given(ctx, option.name):  # typer gives its own callbacks paths, others (in some versions) text
        ctx.meta.setdefault(_GIVEN, {})[option.name] = Path(value) if is_path else value


def given(ctx: typer.Context) -> dict[str, Any]:
    """The shared options that stand on the command line."""
    return dict(ctx.meta.get(_GIVEN, {}))


def is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option stands on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse(ctx: typer.Context, names: Iterable[str], reason: str) -> None:
    """Refuse options that would be ignored.

    Args:
        names: Options that are not used.
        reason: Why not, for the message.

    Raises:
        InvalidValueError: Naming those of them that stand on the command line.
    """
    unused = [flag(name) for name in names if is_given(ctx, name)]
    if unused:
        raise InvalidValueError(f"{', '.join(unused)} would be ignored: {reason}.")


def flag(name: str) -> str:
    """An option as it is typed."""
    return f"--{name.replace('_', '-')}"
