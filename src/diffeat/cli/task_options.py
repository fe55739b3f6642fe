"""Options of a command from the options of tasks: offered in its help, and refused where the task does not use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast, get_args, get_origin

import typer

from diffeat.cli.command import Command, flag, option, options
from diffeat.errors import InvalidValueError, shown

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from diffeat.evaluation.task import Task, TaskOptions
    from diffeat.extraction import Recipe
    from diffeat.tasks.correspondence import Protocol


class TaskCommand(Command):
    """A command with an option for every field of the registered tasks' options, and of the datasets' cards.

    What was typed lies in :func:`~diffeat.cli.command.given`; values keep the defaults of the models otherwise.

    Attributes:
        only: The tasks that the command is about, where it is not about all.
        own: Whether it declares the options that every task has, and those of datasets, itself.
    """

    only: ClassVar[tuple[str, ...]] = ()
    own: ClassVar[bool] = False

    def shared(self) -> list[Any]:
        return [*super().shared(), *_options(self.only, self.own)]


class PropagationCommand(TaskCommand):
    """With the options of propagation."""

    only = ("propagation",)


class MaskCommand(TaskCommand):
    """With the options of tasks that find masks without training."""

    only = ("parts", "words")
    own = True


def refuse_others(names: Iterable[str], used: Iterable[str], what: str, kind: str = "") -> None:
    """Refuse options of other tasks and datasets.

    Args:
        names: Given ones.
        used: By what is done.
        what: What is done, for the message.
        kind: Of the data: options of its other tasks are told with their task.

    Raises:
        InvalidValueError: Naming them, and where they belong.
    """
    by_home: dict[str, list[str]] = {}
    homes = _homes(kind)
    for name in sorted(set(names) & set(homes) - set(used)):
        by_home.setdefault(homes[name], []).append(flag(name))
    if by_home:
        told = "; ".join(
            f"{', '.join(options)} {'belong' if len(options) > 1 else 'belongs'} to {home}"
            for home, options in by_home.items()
        )
        raise InvalidValueError(f"{told}, but {what}.")


def options_of(task: Task, recipe: Recipe, given: Mapping[str, object]) -> TaskOptions:
    """The options of a task, those of the recipe included; which these are is told on standard error.

    Raises:
        InvalidValueError: A value that its option does not take; options are named as they are typed.
    """
    from diffeat.explain import InvalidFieldsError
    from diffeat.tasks.registry import options_for

    try:
        options = options_for(task, recipe, **given)
    except InvalidFieldsError as error:
        lines = dict.fromkeys(f"{flag(place.split('.')[0])}: {m}" if place else m for place, m in error.faults)
        raise InvalidValueError(" ".join(line if line.endswith(("?", ".")) else f"{line}." for line in lines)) from None
    taken = {flag(name): value for name, value in recipe.tasks.get(task.name, {}).items() if name not in given}
    if taken:
        told = ", ".join(f"{name} {shown(value)}" for name, value in taken.items())
        typer.echo(f"From recipe {recipe.name}: {told}", err=True)
    return options


def protocol_of(name: str | None, recipe: Recipe, usual: str) -> Protocol:
    """The protocol of pairs that is given, else the recipe's, else the dataset's usual one."""
    from diffeat.tasks.correspondence.evaluate import TASK, CorrespondenceOptions

    options = options_of(TASK, recipe, {} if name is None else {"protocol": name})
    return cast(CorrespondenceOptions, options).protocol_for(usual)


def _homes(kind: str) -> Mapping[str, str]:
    """What each option belongs to: the kinds of data, or the dataset."""
    from diffeat.datasets.registry import DATASETS
    from diffeat.tasks.registry import TASKS

    homes: dict[str, list[str]] = {}
    for task in TASKS.values():
        home = f"--task {task.name}" if task.kind == kind else task.kind
        for name in task.options.model_fields:
            homes.setdefault(name, []).append(home)
    for card in DATASETS.values():
        for name in card.options:
            homes.setdefault(name, []).append(card.name)
    return {name: " and ".join(dict.fromkeys(kinds)) for name, kinds in homes.items()}


def _options(only: Sequence[str], own: bool) -> list[Any]:
    """An option for every field."""
    from diffeat.datasets.registry import DATASETS
    from diffeat.evaluation.task import TaskOptions
    from diffeat.tasks.registry import TASKS

    tasks = [task for task in TASKS.values() if not only or task.name in only]
    declared: dict[str, Any] = {}
    for task in tasks:
        for name, field in task.options.model_fields.items():
            users = [t for t in tasks if name in t.options.model_fields]
            if own and name in TaskOptions.model_fields:
                continue
            if name in TaskOptions.model_fields:
                panel, users = "Options", users[:1]
            else:
                panel = f"{users[0].kind.capitalize()}: {users[0].name}"
            help = " ".join(_help(t.options.model_fields[name]) for t in users)
            declared.setdefault(name, option(_kind(field.annotation), help, panel=panel))
    for card in DATASETS.values():
        if not own and card.kind in {task.kind for task in tasks}:
            for name, text in card.options.items():
                declared.setdefault(name, option(str, text, panel=f"{card.kind.capitalize()}: {card.name}"))
    return options(declared)


def _help(field: FieldInfo) -> str:
    default = field.get_default()
    return f"{field.description}{'' if default in (None, (), False) else f' [default: {default}]'}"


def _kind(annotation: Any) -> Any:
    """What is typed for a field of this type."""
    inner = [t for t in (get_args(annotation) or (annotation,)) if t in (bool, int, float, str, Path)] or [str]
    return list[inner[0]] if get_origin(annotation) is tuple else inner[0]
