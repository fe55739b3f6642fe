"""The house rules that a machine can check: imports run one way, files stay small, no export hides a module."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "diffeat"

#: Rooms from the roof to the ground; a room imports from its own row and the rows below it.
ROWS = [
    {"cli", "app", "__main__"},
    {"report", "distributed", "reproduce"},
    {"studies", "training"},
    {"tasks", "evaluation", "interfaces"},
    {"extraction", "recipes"},
    {"techniques"},
    {"refinement", "trajectories", "storage"},
    {"activations"},
    {"backbones"},
    {"features", "datasets", "zoo"},
    {"viz", "geometry"},
    {"ambient", "memory"},
    {"errors", "explain", "files", "notebook", "progress", "unheard", "__about__"},
]
HEIGHT = {room: len(ROWS) - i for i, row in enumerate(ROWS) for room in row}


def _room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "diffeat" and len(parts) > 1 else None


def _imports(file: Path) -> list[tuple[int, str]]:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}:{node.lineno} uses a relative import"
            found.append((node.lineno, node.module))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
            found += [(node.lineno, str(name))] if name else []
    return found


#: The one door that opens upwards: ``diffeat.viz.click``, the page in a cell, is looked up when it is asked for.
DOORS = {("viz", "diffeat.app.cell")}
FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_run_one_way(file: Path) -> None:
    here = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if here == "__init__":
        return  # the public names
    assert here in HEIGHT, f"{here} has no place in the architecture"
    for line, module in _imports(file):
        room = _room(module)
        if room is not None and (here, module) not in DOORS:
            assert HEIGHT[room] <= HEIGHT[here], f"{file}:{line} imports upwards: {here} from {room}"


def test_the_drawing_shows_these_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SOURCE.parent.parent / "docs"))
    import architecture  # pyright: ignore

    drawn = [set(rooms) for rooms, _ in architecture.ROWS]
    assert drawn == [row - {"__main__", "recipes"} for row in ROWS[:-2]]
    image = Path(architecture.__file__).parent / "images" / "architecture.svg"
    assert image.read_text(encoding="utf-8") == architecture.draw(), "draw it anew: python docs/architecture.py"


def test_the_checker_sees_an_upward_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from diffeat.cli.main import app\n    import_module('diffeat.cli.main')\n")
    assert _imports(file) == [(2, "diffeat.cli.main"), (3, "diffeat.cli.main")]
    assert HEIGHT[_room("diffeat.cli.main")] > HEIGHT["geometry"]  # pyright: ignore


MODULES = {
    ".".join(("diffeat", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in FILES
}


def _imported_modules(file: Path) -> set[str]:
    """The modules of the library that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & set(MODULES) or {node.module}
    return found & set(MODULES)


@pytest.mark.parametrize("room", sorted({_room(m) or "" for m in MODULES} - {""}))
def test_no_import_cycle_inside_a_room(room: str) -> None:
    own = {m: file for m, file in MODULES.items() if _room(m) == room}
    graph = {m: (_imported_modules(file) & set(own)) - {m} for m, file in own.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"{room} imports in a circle: {' ← '.join(error.args[1])}")


@pytest.mark.parametrize("package", sorted(m for m, file in MODULES.items() if file.name == "__init__.py"))
def test_no_export_hides_a_module(package: str) -> None:
    """``import package.name as m`` gives the export, if there is one, and never the module."""
    names = []
    for node in ast.walk(ast.parse(MODULES[package].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module != package:
            names += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
    assert [name for name in names if f"{package}.{name}" in MODULES] == []


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_files_stay_small(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


def test_typing_is_declared() -> None:
    assert (SOURCE / "py.typed").is_file()


def test_importing_the_library_is_light() -> None:
    code = (
        "import sys, diffeat, diffeat.cli.main; print([m for m in ('torch', 'diffusers', 'PIL') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_public_names_resolve() -> None:
    import diffeat

    for name in diffeat.__all__:
        assert getattr(diffeat, name) is not None
    with pytest.raises(AttributeError):
        _ = diffeat.no_such_name
