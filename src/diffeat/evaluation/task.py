"""A use of features that is scored on a kind of dataset. Tasks are registered in :mod:`diffeat.tasks.registry`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from diffeat.datasets.card import Kind
from diffeat.datasets.registry import get_card, open_dataset
from diffeat.errors import InvalidValueError
from diffeat.evaluation.result import Result
from diffeat.evaluation.texts import PromptPolicy, read_policy
from diffeat.explain import InvalidFieldsError
from diffeat.features import Spec


class TaskOptions(BaseModel):
    """What may be said about an evaluation; the command line offers these fields with their descriptions.

    Raises:
        InvalidValueError: A value does not fit; names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: str | None = Field(
        default=None, description="The split that is scored; test if not given, where there are splits."
    )
    limit: int | None = Field(
        default=None,
        ge=1,
        description="So many pairs, pictures or videos, spread evenly; of classes, so many pictures of each.",
    )
    prompts: Annotated[PromptPolicy, BeforeValidator(read_policy)] = Field(
        default=None,
        description="Text for the pictures: 'category', a text with {category} in it, a file of captions (JSON "
        "{picture or category: text}, or CSV with image,prompt), or any other text. By default the recipe's own, or "
        "the category where the protocol says so.",
    )

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidFieldsError(type(self).__name__, error, type(self)) from None


def suggested(recipe: Spec, task: str) -> dict[str, Any]:
    """The options that a recipe has for a task."""
    return getattr(recipe, "tasks", {}).get(task, {})


@dataclass(frozen=True)
class Task:
    """A task by name.

    Attributes:
        kind: Of the datasets that it is scored on.
        options: What may be said about it.
        evaluate: ``evaluate(data, source, options, *, store=None, progress=silent)`` gives a :class:`Result`.
        one_map: Whether it takes one map of a picture; others take several side by side, or say it by their options.
        learns: Whether ``data`` is a pair: the part that is learned from, and the part that is scored.
    """

    name: str
    kind: Kind
    options: type[TaskOptions]
    evaluate: Callable[..., Result]
    learns: bool = False
    one_map: bool = False

    def open(self, dataset: str, root: str | Path | None, options: TaskOptions, **reading: object) -> object:
        """The data that :attr:`evaluate` takes.

        Args:
            reading: Options of the dataset's card.

        Raises:
            DiffeatError: As :func:`~diffeat.datasets.registry.open_dataset`, or the training split is to be scored.
        """
        scored = get_card(dataset, self.kind).split(options.split)
        if self.learns and scored == "train":
            raise InvalidValueError(f"{dataset} is learned from on its train split, which cannot be scored as well.")
        parts = ["train", scored] if self.learns else [scored]
        data = [open_dataset(dataset, root, split, kind=self.kind, **reading).limited(options.limit) for split in parts]
        return tuple(data) if self.learns else data[0]
