"""Every task by name. Adding one: its folder, a line here, and a writer in :mod:`diffeat.report.results`."""

from __future__ import annotations

from diffeat.datasets.card import Kind
from diffeat.evaluation.task import Task
from diffeat.tasks.classification import evaluate as classification
from diffeat.tasks.correspondence import evaluate as correspondence
from diffeat.tasks.propagation import evaluate as propagation
from diffeat.tasks.segmentation import evaluate as segmentation

TASKS: dict[str, Task] = {
    task.name: task for task in (correspondence.TASK, segmentation.TASK, classification.TASK, propagation.TASK)
}


def task_of(kind: Kind) -> Task:
    """The task that a kind of dataset is scored by."""
    return next(task for task in TASKS.values() if task.kind == kind)
