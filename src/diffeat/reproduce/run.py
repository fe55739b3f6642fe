"""Runs the rows of a table that are missing, and sets them beside what was published.

A folder holds the features of every recipe (a store that a later run goes on with), ``rows.json`` with every number,
and the table as ``reproduce.md`` and ``reproduce.html``, written anew after every row. A row that was run with the
same recipe, options, data, weights and precision is not run again. No number is lost: those of other options stay in
``rows.json``, and a row that fails keeps in the table what it had, beside why it failed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from diffeat.backbones import remembered
from diffeat.datasets.registry import get_card
from diffeat.errors import DiffeatError, InvalidValueError
from diffeat.evaluation.features import feature_folder
from diffeat.evaluation.result import Table as Cells
from diffeat.evaluation.task import Task, TaskOptions
from diffeat.extraction import Reading, Recipe
from diffeat.features import FeatureMap, Source
from diffeat.files import read_text, size_and_time, write_files
from diffeat.progress import Progress, silent
from diffeat.report.page import Page, markdown_report, markdown_table
from diffeat.reproduce.table import Row, Table, maps_of
from diffeat.tasks.registry import options_for, task_of
from diffeat.techniques import Combination

_STATE, _PAGES = "rows.json", ("reproduce.md", "reproduce.html")
#: Columns of the table that are text.
TEXT = ("measure", "what differs")
#: Bytes of a stored value.
_BYTES = 2


@dataclass(frozen=True)
class Outcome:
    """A row that was run.

    Attributes:
        key: Of what decides its number: recipe, options, data, weights, precision.
        value: In percent; ``None`` where it could not be run.
        low: End of the interval.
        high: End of the interval.
        notes: What a reader of the number must know, or why there is none.
    """

    key: str
    value: float | None
    low: float | None
    high: float | None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "–" if self.value is None else f"{self.value:.1f} [{self.low:.1f}, {self.high:.1f}]"


@dataclass(frozen=True)
class Plan:
    """What a row will take, from its recipe and the table alone.

    Attributes:
        pictures: To read; ``None`` if not known without the dataset.
        calls: Rows of denoiser calls for a picture.
        bytes: Of the stored features; ``None`` if not known without the model.
    """

    row: str
    pictures: int | None
    calls: int
    bytes: int | None

    def hours(self, seconds: float | None) -> float | None:
        """At so many seconds for one row of a denoiser call."""
        if seconds is None or self.pictures is None:
            return None
        return self.pictures * self.calls * seconds / 3600


def recipe_of(row: Row, own: Mapping[str, str]) -> Recipe:
    """The recipe of a row: one's own for it, else the table's.

    Args:
        own: Recipes by row.

    Raises:
        InvalidValueError: A part of it has to be trained first.
    """
    if row.name in own:
        return Recipe.load(own[row.name])
    if row.recipe is None:
        raise InvalidValueError(
            f"{row.name}: a part of it is trained first: `{row.train}`. Then give its recipe: --with "
            f"'{row.name}=RECIPE'."
        )
    return _changed(row)


def _changed(row: Row) -> Recipe:
    recipe = Recipe.load(row.reads)
    return recipe.replace(**row.changes) if row.changes else recipe


def plan_rows(
    table: Table, rows: Sequence[Row], *, own: Mapping[str, str] | None = None, pictures: int | None = None
) -> list[Plan]:
    """What rows will take. Rows of one recipe share its features, which count once, in the first of them.

    Args:
        own: Recipes by row.
        pictures: That are read, where the dataset is on this disk.
    """
    plans, seen = [], set()
    count = pictures if pictures is not None else table.pictures
    for row in rows:
        name = (own or {}).get(row.name)
        recipe = Recipe.load(name) if name else _changed(row)
        shared = recipe.hash in seen
        seen.add(recipe.hash)
        maps = (None if name or row.changes else maps_of(row.reads)) if table.stored else []
        size = None if maps is None or count is None else sum(map(prod, maps)) * _BYTES * count
        plans.append(Plan(row.name, 0 if shared else count, _calls(recipe), 0 if shared else size))
    return plans


def _calls(recipe: Recipe) -> int:
    """Rows of denoiser calls for a picture, steps before the reading included."""
    total = 0.0
    for part in recipe.single():
        if isinstance(part, Reading):
            for view in part.view_recipes():
                path = view.trajectory
                rows = (path.steps or 0) if path.stepped else len(path.timesteps) * path.draws
                total += rows * Combination.of(view.techniques).calls()
    return round(total)


def count_pictures(table: Table, root: Path | None, limit: int | None = None) -> int:
    """How many pictures of a dataset are read, each once.

    Raises:
        DiffeatError: The dataset cannot be read.
    """
    task = task_of(get_card(table.dataset).kind)
    data: Any = task.open(table.dataset, root, task.options(**({} if limit is None else {"limit": limit})))
    return len(set(_pictures(data)))


def _pictures(data: Any) -> Iterator[Path | int]:
    """The files of a dataset's pictures, in its order; a number in place of one that is drawn."""
    for part in data if isinstance(data, tuple) else (data,):
        for sample in part:
            for value in (getattr(sample, name, ()) for name in ("image", "source", "target", "frames")):
                several = value if isinstance(value, tuple) else (value,)
                yield from (one if isinstance(one, Path) else id(one) for one in several)


def run_rows(
    table: Table,
    rows: Sequence[Row],
    root: Path | None,
    folder: Path,
    load: Callable[[Recipe], Source[FeatureMap]],
    *,
    own: Mapping[str, str] | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> Iterator[tuple[Row, Outcome]]:
    """Run what is missing of rows, one after the other; a row that cannot be run says why, and the others go on.

    Args:
        root: Of the dataset.
        folder: Of features, numbers and pages; gone on with.
        load: Makes the source of a recipe.
        own: Recipes by row, in place of the table's.
        limit: About so many pairs, pictures or videos.
    """
    task = task_of(get_card(table.dataset).kind)
    held = _read(folder)
    source: Source[FeatureMap] | None = None
    for row in rows:
        numbers, failed = held.setdefault(row.name, {}), dict[str, Outcome]()
        try:
            recipe = recipe_of(row, own or {})
            options = options_for(task, recipe, **row.options, **({} if limit is None else {"limit": limit}))
            data = task.open(table.dataset, root, options, **row.reading)
            if source is None or source.recipe.hash != recipe.hash:
                source = load(recipe)
            key = _key(table, row, source, options, data)
            outcome = numbers.pop(key, None) or _run(task, source, data, options, folder, key, progress)
            numbers[key] = outcome  # the last is the one that is shown
        except (DiffeatError, OSError, MemoryError) as error:
            outcome = Outcome("", None, None, None, (str(error) or "out of memory",))
            last = next(reversed(numbers.values()), outcome)
            failed = {row.name: last if last is outcome else replace(last, notes=(f"older: {outcome.notes[0]}",))}
        _write(folder, table, held, failed)
        yield row, outcome


def _run(
    task: Task,
    source: Source[FeatureMap],
    data: Any,
    options: TaskOptions,
    folder: Path,
    key: str,
    progress: Progress,
) -> Outcome:
    with remembered(folder / "encoded"):
        result = task.evaluate(data, source, options, store=feature_folder(folder, source), progress=progress)
    low, high = result.interval()
    return Outcome(key, float(result.value), float(low), float(high), tuple(result.notes))


def _key(table: Table, row: Row, source: Source[FeatureMap], options: TaskOptions, data: Any) -> str:
    """A hash of what decides a row's number."""
    files = [(str(file), size_and_time(file)) if isinstance(file, Path) else "" for file in _pictures(data)]
    facts = [table.dataset, files, source.recipe.hash, source.fingerprint, source.precision]
    facts += [options.model_dump(mode="json"), row.reading]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read(folder: Path) -> dict[str, dict[str, Outcome]]:
    if not (folder / _STATE).is_file():
        return {}
    try:
        data = json.loads(read_text(folder / _STATE, "file of rows"))
        return {
            name: {key: Outcome(key, **{**values, "notes": tuple(values["notes"])}) for key, values in numbers.items()}
            for name, numbers in data.items()
        }
    except (ValueError, TypeError, AttributeError, KeyError):
        raise InvalidValueError(
            f"{folder / _STATE} is damaged. Remove it: rows are run again, from the stored features."
        ) from None


def outcome_cells(table: Table, outcomes: Mapping[str, Outcome]) -> Cells:
    """Header and rows of *paper | yours [interval] | what differs*."""
    cells = []
    for row in table.rows:
        if row.name in outcomes:
            outcome = outcomes[row.name]
            differs = "; ".join((*row.differs, *outcome.notes)) or "nothing that is known"
            cells.append([row.name, row.measure, row.published, str(outcome), differs])
    return ["row", "measure", "paper", "yours", "what differs"], cells


def _write(
    folder: Path, table: Table, held: Mapping[str, Mapping[str, Outcome]], failed: Mapping[str, Outcome]
) -> None:
    cells = outcome_cells(
        table, {name: list(numbers.values())[-1] for name, numbers in held.items() if numbers} | dict(failed)
    )
    run = {cell[0] for cell in cells[1]}
    sources = [
        f"{row.name}: {row.paper}{f', {row.place}' if row.place else ''}. {row.source}"
        for row in table.rows
        if row.name in run
    ]
    page = Page(table.title, f"Dataset {table.dataset}; intervals are 95 % bootstraps of what was scored here.")
    page.table(*cells, text=TEXT)
    page.heading("Where the papers' numbers were read")
    page.bullets(sources)
    told = {name: {key: _told(outcome) for key, outcome in numbers.items()} for name, numbers in held.items()}
    state = json.dumps(told, indent=1)
    text = markdown_report(table.title, [markdown_table(*cells)], sources)
    write_files(folder, [_STATE, *_PAGES], [state, text, page.html()], force=True)


def _told(outcome: Outcome) -> dict[str, Any]:
    return {name: value for name, value in vars(outcome).items() if name != "key"}
