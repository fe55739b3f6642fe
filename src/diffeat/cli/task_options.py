"""Options of a command from the options of tasks: offered in its help, and refused where the task does not use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args, get_origin

from typer import Context, Option, Typer
from typer.main import get_command

from diffeat.cli.dataset_help import NamesDatasets
from diffeat.errors import InvalidValueError

_GIVEN = "diffeat.options"


class TaskCommand(NamesDatasets):
    """A command with an option for every field of the registered tasks' options, and of the datasets' cards.

    What was typed lies in :func:`given`; values keep the defaults of the models otherwise.

    Attributes:
        only: The one task that the command is about.
    """

    only: ClassVar[str | None] = None

    def get_params(self, ctx: Any) -> list[Any]:
        declared = super().get_params(ctx)
        names = {parameter.name for parameter in declared}
        return [
            *declared[:-1],
            *(o for o in _options(self.only) if o.name not in names),
            declared[-1],
        ]  # --help stays last


def given(ctx: Context) -> dict[str, Any]:
    """The task options that stand on the command line."""
    return dict(ctx.meta.get(_GIVEN, {}))


def refuse_unused(names: Iterable[str], used: Iterable[str], where: Mapping[str, str], what: str) -> None:
    """Refuse options that would be ignored.

    Args:
        names: Given ones.
        used: By what is done.
        where: For each option, what it belongs to.
        what: What is done, for the message.

    Raises:
        InvalidValueError: Naming them, and where they belong.
    """
    by_home: dict[str, list[str]] = {}
    for name in sorted(set(names) - set(used)):
        by_home.setdefault(where[name], []).append(f"--{name.replace('_', '-')}")
    if by_home:
        told = "; ".join(
            f"{', '.join(options)} {'belong' if len(options) > 1 else 'belongs'} to {home}"
            for home, options in by_home.items()
        )
        raise InvalidValueError(f"{told}, but {what}.")


def homes() -> dict[str, str]:
    """What each option belongs to: the kinds of data, or the dataset."""
    from diffeat.datasets.registry import DATASETS
    from diffeat.tasks.registry import TASKS

    found: dict[str, list[str]] = {}
    for task in TASKS.values():
        for name in task.options.model_fields:
            found.setdefault(name, []).append(task.kind)
    for card in DATASETS.values():
        for name in card.options:
            found.setdefault(name, []).append(card.name)
    return {name: " and ".join(places) for name, places in found.items()}


def _options(only: str | None) -> list[Any]:
    """An option for every field; typer makes them from a function that has them as parameters."""
    from diffeat.datasets.registry import DATASETS
    from diffeat.evaluation.task import TaskOptions
    from diffeat.tasks.registry import TASKS

    tasks = [task for task in TASKS.values() if only in (None, task.name)]
    cards = [card for card in DATASETS.values() if card.kind in {task.kind for task in tasks}]
    parameters: dict[str, Any] = {}
    for task in tasks:
        for name, field in task.options.model_fields.items():
            panel = "Options" if name in TaskOptions.model_fields else f"{task.kind.capitalize()}: {task.name}"
            shown = "" if field.get_default() in (None, (), False) else f" [default: {field.get_default()}]"
            parameters.setdefault(name, _annotated(name, field.annotation, f"{field.description}{shown}", panel))
    for card in cards:
        for name, text in card.options.items():
            parameters.setdefault(name, _annotated(name, str, text, f"{card.kind.capitalize()}: {card.name}"))

    def fields(**_: object) -> None: ...

    fields.__annotations__ = parameters
    fields.__signature__ = Signature(  # pyright: ignore[reportFunctionMemberAccess]
        [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=a) for name, a in parameters.items()]
    )
    app = Typer(add_completion=False)
    app.command()(fields)
    options = [option for option in get_command(app).params if option.name in parameters]
    for option in options:
        option.expose_value, option.callback = False, _remember
    return options


def _annotated(name: str, annotation: Any, text: str, panel: str) -> Any:
    inner = [t for t in (get_args(annotation) or (annotation,)) if t in (bool, int, float, str, Path)] or [str]
    several = get_origin(annotation) is tuple
    kind: Any = list[inner[0]] if several else inner[0]
    flag = f"--{name.replace('_', '-')}"
    return Annotated[kind | None, Option(flag, help=text.replace("[", "\\["), rich_help_panel=panel)]


def _remember(ctx: Any, option: Any, value: Any) -> None:
    if value is not None and value is not False and value != [] and value != ():
        ctx.meta.setdefault(_GIVEN, {})[option.name] = value
