"""The page for Python users: its code runs as it stands and gives what it says, and no exported name is forgotten."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.S | re.M)
GIVES = re.compile(r"#\s*→\s*(.*?)\s*$")
#: Doors in the order of the page's table; what one exports is not told again at the next.
ROOMS = ["diffeat"] + [
    f"diffeat.{room}"
    for room in (
        "extraction", "features", "activations", "backbones", "techniques", "trajectories", "refinement", "storage",
        "datasets", "evaluation", "tasks", "tasks.correspondence", "tasks.homography", "tasks.segmentation",
        "interfaces", "tasks.classification", "tasks.propagation", "tasks.transfer", "tasks.dense", "tasks.words",
        "tasks.parts",
        "studies", "studies.selection",
        "studies.content_shift", "training", "distributed", "reproduce", "viz", "geometry",
    )
]  # fmt: skip


def _said(node: ast.stmt, lines: list[str]) -> str | None:
    """What the page says that an expression gives."""
    match = GIVES.search(lines[(node.end_lineno or node.lineno) - 1])
    return match.group(1) if match and isinstance(node, ast.Expr) else None


class _Checks(ast.NodeTransformer):
    """Puts ``expression  # → value`` into ``check(expression, value)``."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        said = _said(node, self.lines)
        if said is None:
            return node
        call = ast.Call(ast.Name("check__", ast.Load()), [node.value, ast.Constant(said)], [])
        return ast.fix_missing_locations(ast.copy_location(ast.Expr(ast.copy_location(call, node)), node))


def test_the_page_runs_and_gives_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    checked = []

    def check(value: object, said: str) -> None:
        assert str(value) == said
        checked.append(said)

    text = PAGE.read_text(encoding="utf-8")
    space: dict[str, object] = {"check__": check}
    for block in BLOCK.finditer(text):
        code = "\n" * text.count("\n", 0, block.start(1)) + block.group(1)  # lines of errors are those of the page
        tree = _Checks(code.splitlines()).visit(ast.parse(code))
        exec(compile(tree, str(PAGE), "exec"), space)
    said = [line for block in BLOCK.findall(text) for line in block.splitlines() if GIVES.search(line)]
    assert len(checked) >= len(said) > 30


def _imports() -> set[tuple[str, str]]:
    """Room and name of what the page's code imports."""
    trees = [ast.parse(block) for block in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {(node.module or "", alias.name) for node in nodes for alias in node.names}


def _rest() -> dict[str, list[str]]:
    """What the rooms export beside what the page's code imports, each thing once."""
    told = [getattr(import_module(room), name) for room, name in _imports()]
    rest: dict[str, list[str]] = {}
    for room in ROOMS:
        module = import_module(room)
        names = [name for name in module.__all__ if not any(getattr(module, name) is thing for thing in told)]
        told += [getattr(module, name) for name in names]
        rest[room] = names
    return rest


def test_every_exported_name_stands_on_the_page() -> None:
    table = dict(re.findall(r"^\| `(diffeat[\w.]*)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.M))
    listed = {room: re.findall(r"`(\w+)`", cell) for room, cell in table.items()}
    assert listed == {room: names for room, names in _rest().items() if names}


def test_the_page_imports_from_the_doors_alone() -> None:
    assert {(room, name) for room, name in _imports() if room.startswith("diffeat")} <= {
        (room, name) for room in ROOMS for name in import_module(room).__all__
    }


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in PAGE.parent.glob("*.md"))])
def test_code_on_the_other_pages_imports_what_there_is(page: str) -> None:
    text = (PAGE.parent.parent / page).read_text(encoding="utf-8")
    nodes = [node for block in BLOCK.findall(text) for node in ast.walk(ast.parse(block))]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "diffeat":
            module = import_module(node.module or "")
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_every_room_has_its_place_on_the_page() -> None:
    """A package with exports that the page does not know fails here."""
    source = Path(__file__).parent.parent / "src"
    packages = {".".join(f.parent.relative_to(source).parts) for f in (source / "diffeat").rglob("__init__.py")}
    doors = {package for package in packages if hasattr(import_module(package), "__all__")}
    assert doors - set(ROOMS) == {"diffeat.datasets.toyworld"}
