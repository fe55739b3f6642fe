"""What is written and not registered is found here: a module that nothing names would be dead without a word."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

import diffeat
from diffeat.activations import sites
from diffeat.activations.sites.probe import Site
from diffeat.cli.main import app
from diffeat.datasets.card import DatasetCard
from diffeat.datasets.registry import DATASETS
from diffeat.evaluation.task import Task
from diffeat.storage import exports, formats
from diffeat.tasks.registry import TASKS

SOURCE = Path(diffeat.__file__).parent


def modules(room: str) -> Iterator[ModuleType]:
    """All modules of a room, loaded."""
    package = importlib.import_module(f"diffeat.{room}")
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(found.name)


def held(room: str, kind: type) -> set[Any]:
    """What modules of a room hold at their top, alone or in a tuple."""
    values = [value for module in modules(room) for value in vars(module).values()]
    inside = [one for value in values if isinstance(value, tuple) for one in value]
    return {id(one): one for one in (*values, *inside) if isinstance(one, kind)}.values()  # type: ignore[return-value]


def written(kind: type) -> set[type]:
    """Classes of the package that are of a kind and have nothing abstract left."""
    found = {c for below in kind.__subclasses__() for c in (below, *written(below))}
    return {c for c in found if c.__module__.startswith("diffeat.") and not getattr(c, "__abstractmethods__", None)}


def test_sites() -> None:
    list(modules("activations"))
    lost = written(Site) - {type(site) for site in sites.SITES.values()}
    assert not lost, f"not in SITES of activations/sites/__init__.py: {lost}"


def test_tasks() -> None:
    lost = {task.name for task in held("tasks", Task)} - set(TASKS)
    assert not lost, f"not in TASKS of tasks/registry.py: {lost}"


def test_datasets() -> None:
    lost = {card.name for card in held("datasets", DatasetCard)} - set(DATASETS)
    assert not lost, f"not in datasets/registry.py: {lost}"


def test_formats_and_forms() -> None:
    lost = written(formats.Format) - {type(one) for one in formats.FORMATS.values()}
    assert not lost, f"not in FORMATS of storage/formats.py: {lost}"
    lost = written(exports.Form) - set(exports.FORMS.values())
    assert not lost, f"not in FORMS of storage/exports.py: {lost}"


def test_commands() -> None:
    """Every module of the command line is reached from ``main``."""
    reached, left = set[str](), ["main"]
    while left:
        reached.add(name := left.pop())
        for node in ast.walk(ast.parse((SOURCE / "cli" / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diffeat.cli."):
                left += {(node.module or "").removeprefix("diffeat.cli.")} - reached
    lost = {file.stem for file in (SOURCE / "cli").glob("*.py")} - reached - {"__init__"}
    assert not lost, f"no command of diffeat/cli/main.py comes to: {lost}"


@pytest.mark.parametrize(
    ("option", "names"), [("store_dtype", formats.FORMATS), ("form", exports.FORMS)], ids=["--store-dtype", "--as"]
)
def test_help_names_what_there_is(option: str, names: dict[str, Any]) -> None:
    """Written there by hand, as help loads no library that it does not need."""
    root: Any = typer.main.get_command(app)
    commands = [c for command in root.commands.values() for c in (command, *getattr(command, "commands", {}).values())]
    helps = [p.help for command in commands for p in command.params if p.name == option]
    assert helps
    for text in helps:
        assert [name for name in names if name not in text] == [], text
