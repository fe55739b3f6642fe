"""A table of published numbers on one dataset: data, in ``tables/*.yaml``.

A number is a fact with its source, never what a test expects. A row without one says why there is none.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from diffeat.errors import UnknownNameError, did_you_mean, shown
from diffeat.explain import InvalidFieldsError
from diffeat.files import read_text


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Row(_Part):
    """One published number, and how diffeat comes to its own.

    Attributes:
        name: Of the row, each once in a table.
        paper: Where it was published.
        place: Table or section.
        number: In percent; ``None`` where it is not known.
        spread: Standard deviation over splits, if told.
        measure: What the number is.
        source: Where the number was read, or why there is none.
        checked: Whether it was read in the paper or a page that quotes it; others stand in our notes alone.
        recipe: The preset that reads the features; ``None`` where a part of it is trained first.
        train: Then: the command that trains it.
        changes: Fields of the recipe that have other values here, as ``--set`` names them.
        options: Of the task, as :class:`~diffeat.evaluation.task.TaskOptions` takes them.
        reading: Options of the dataset.
        differs: What in the paper or its released code is not what is run here.
    """

    name: str = Field(min_length=1, max_length=80)
    paper: str
    place: str = ""
    number: float | None = Field(default=None, ge=0, le=100)
    spread: float | None = Field(default=None, ge=0)
    measure: str
    source: str = Field(min_length=1)
    checked: bool = True
    recipe: str | None = None
    train: str | None = None
    changes: dict[str, Any] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    reading: dict[str, str] = Field(default_factory=dict)
    differs: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _runs(self) -> Row:
        if (self.recipe is None) == (self.train is None):
            raise ValueError(f"{self.name}: give either the recipe or the command that trains one")
        if self.train is not None and "--recipe " not in self.train:
            raise ValueError(f"{self.name}: the command that trains must say --recipe")
        return self

    @property
    def reads(self) -> str:
        """The recipe, or the one that the training starts from."""
        words = (self.train or "").split()
        return self.recipe or words[words.index("--recipe") + 1]

    @property
    def published(self) -> str:
        """``59.6``, with its spread if there is one, or a dash."""
        if self.number is None:
            return "–"
        spread = f" ± {self.spread:g}" if self.spread is not None else ""
        return f"{self.number:g}{spread}{'' if self.checked else ' (unchecked)'}"


class Table(_Part):
    """The rows of one dataset.

    Attributes:
        title: Of the page.
        dataset: Its name in diffeat.
        pictures: That are read for a row, if the source says so; counted where the dataset is on this disk.
        counted: Where :attr:`pictures` was read.
        stored: Whether its pictures are files, whose features are stored.
    """

    title: str
    dataset: str
    pictures: int | None = Field(default=None, ge=1)
    counted: str = ""
    stored: bool = True
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self) -> Table:
        names = [row.name for row in self.rows]
        double = next((name for name in names if names.count(name) > 1), None)
        if double:
            raise ValueError(f"two rows are called {double!r}")
        return self

    def like(self, patterns: list[str] | tuple[str, ...]) -> list[Row]:
        """The rows whose name is like one of the patterns, in the table's order; all if there are none.

        Raises:
            UnknownNameError: A pattern is like none.
        """
        for pattern in patterns:
            if not any(fnmatchcase(row.name, pattern) for row in self.rows):
                near = did_you_mean(pattern, [row.name for row in self.rows])
                raise UnknownNameError(f"No row is like {shown(pattern)}. {near}".strip())
        return [row for row in self.rows if not patterns or any(fnmatchcase(row.name, p) for p in patterns)]


def table_names() -> list[str]:
    """The tables that come with the package.

    Example:
        >>> "spair" in table_names()
        True
    """
    folder = files("diffeat.reproduce") / "tables"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def maps_of(recipe: str) -> list[tuple[int, int, int]] | None:
    """Channels, height and width of the maps that a store holds of one picture, at most; ``None`` where not known.

    Args:
        recipe: A preset.

    Example:
        >>> maps_of("dift-sd21")
        [(1280, 48, 48)]
    """
    text = (files("diffeat.reproduce") / "maps.yaml").read_text(encoding="utf-8")
    maps = yaml.safe_load(text).get(recipe)
    return maps and [tuple(shape) for shape in maps]


def load_table(name: str) -> Table:
    """A table by name, or of a YAML file of one's own.

    Raises:
        UnknownNameError: There is no such table; names the nearest.
        InvalidValueError: The file is no table; names the field.

    Example:
        >>> load_table("spair").dataset
        'spair'
    """
    if name in table_names():
        text = (files("diffeat.reproduce") / "tables" / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).suffix in (".yaml", ".yml"):
        text = read_text(name, "table")
    else:
        near = did_you_mean(name, table_names())
        raise UnknownNameError(f"There is no table {shown(name)}; a table of your own is a .yaml file. {near}".strip())
    try:
        return Table.model_validate(yaml.safe_load(text))
    except ValidationError as error:
        raise InvalidFieldsError(f"table {name}", error, Table) from None
    except yaml.YAMLError as error:
        raise UnknownNameError(f"The table {shown(name)} is no YAML ({str(error).splitlines()[0]}).") from None
