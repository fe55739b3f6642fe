"""The house rules that a machine can check: imports run one way, files stay small, typing is declared."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "diffeat"

#: Rooms from the roof to the ground; a room imports from its own row and the rows below it.
ROWS = [
    {"cli", "app", "__main__"},
    {"report", "distributed", "bench"},
    {"studies", "training"},
    {"tasks", "evaluation"},
    {"extraction", "recipes"},
    {"techniques"},
    {"refinement", "trajectories", "storage"},
    {"activations"},
    {"backbones"},
    {"features", "datasets", "zoo"},
    {"viz", "geometry"},
    {"errors", "progress", "__about__"},
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
    return found


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(SOURCE)))
def test_imports_run_one_way(file: Path) -> None:
    here = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    if here == "__init__":
        return  # the public names
    assert here in HEIGHT, f"{here} has no place in the architecture"
    for line, module in _imports(file):
        room = _room(module)
        if room is not None:
            assert HEIGHT[room] <= HEIGHT[here], f"{file}:{line} imports upwards: {here} from {room}"


def test_the_checker_sees_an_upward_import(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("def f():\n    from diffeat.cli.main import app\n")
    assert _imports(file) == [(2, "diffeat.cli.main")]
    assert HEIGHT[_room("diffeat.cli.main")] > HEIGHT["geometry"]  # pyright: ignore


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
