"""Notebooks run as they stand, cell by cell, and are kept without what they gave."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def _cells(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def _run(source: str, space: dict[str, object]) -> object:
    """A cell's code; the value of its last line, as a notebook shows it."""
    *body, last = ast.parse(source).body
    shown = isinstance(last, ast.Expr)
    exec(compile(ast.Module(body if shown else [*body, last], []), "cell", "exec"), space)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), space) if isinstance(last, ast.Expr) else None


@pytest.mark.parametrize(
    "notebook",
    [NOTEBOOKS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in NOTEBOOKS[1:])],
    ids=lambda file: file.stem,
)
def test_notebooks_run(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    values = [_run("".join(c["source"]), space) for c in _cells(notebook) if c["cell_type"] == "code"]
    shown = [value for value in values if value is not None]
    assert len(shown) >= 3
    for value in shown:
        picture = getattr(value, "_repr_png_", None) or getattr(value, "_repr_html_", value.__repr__)
        assert picture()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda file: file.stem)
def test_nothing_that_a_run_leaves_is_kept(notebook: Path) -> None:
    kept = [cell for cell in _cells(notebook) if cell.get("outputs") or cell.get("execution_count") is not None]
    assert kept == []


def test_the_page_lists_every_notebook() -> None:
    page = (ROOT / "docs" / "notebooks.md").read_text(encoding="utf-8")
    assert [file.name for file in NOTEBOOKS if f"`notebooks/{file.name}`" not in page] == []
    assert len(NOTEBOOKS) == 3
