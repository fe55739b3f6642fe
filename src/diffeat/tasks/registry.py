"""Every task by name. Adding one: its folder, a line here, and a writer in :mod:`diffeat.report.results`."""

from __future__ import annotations

from collections.abc import Callable

from diffeat.datasets.card import Kind
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean
from diffeat.evaluation.task import Task, TaskOptions, suggested
from diffeat.extraction import Recipe
from diffeat.tasks.classification import evaluate as classification
from diffeat.tasks.correspondence import evaluate as correspondence
from diffeat.tasks.dense.options import DenseOptions
from diffeat.tasks.homography import evaluate as homography
from diffeat.tasks.parts import evaluate as parts
from diffeat.tasks.propagation import evaluate as propagation
from diffeat.tasks.segmentation import evaluate as segmentation
from diffeat.tasks.words import evaluate as words

TASKS: dict[str, Task] = {
    part.TASK.name: part.TASK
    for part in (correspondence, homography, segmentation, classification, propagation, parts, words)
}


def task_of(kind: Kind, name: str | None = None) -> Task:
    """The task that a kind of dataset is scored by: the one of a name, or the first.

    Raises:
        InvalidValueError: There is none.
        UnknownNameError: None of this name, or it is scored on another kind.
    """
    tasks = {task.name: task for task in TASKS.values() if task.kind == kind}
    if not tasks:
        known = ", ".join(dict.fromkeys(task.kind for task in TASKS.values()))
        raise InvalidValueError(f"No task is scored on {kind}; there are tasks for {known}.")
    if name is not None and name not in tasks:
        raise UnknownNameError(f"No task {name!r} is scored on {kind}. {did_you_mean(name, tasks)}".rstrip())
    return next(iter(tasks.values())) if name is None else tasks[name]


def options_for(task: Task, recipe: Recipe, **given: object) -> TaskOptions:
    """The options of a task: those that the recipe has for it, and those that are given, which win.

    Raises:
        UnknownNameError: The recipe has options for a task that there is not.
        InvalidValueError: An option that the task does not have, or a value that it does not take.
    """
    check_options(recipe)
    return task.options(**{**suggested(recipe, task.name), **given})


def check_options(recipe: Recipe) -> None:
    """Refuse options for tasks that no task takes; raises as :func:`options_for`."""
    takers: dict[str, Callable[..., object]] = {name: task.options for name, task in TASKS.items()}
    takers["dense"] = DenseOptions
    for name, options in recipe.tasks.items():
        if name not in takers:
            raise UnknownNameError(f"Recipe {recipe.name!r}: no task {name!r}. {did_you_mean(name, takers)}".rstrip())
        takers[name](**options)
