"""Pages, docstrings, messages and notebooks are spelled as codespell's list has it; it needs no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WRITTEN = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", "docs", "notebooks", "src"]


def _wrong(*places: str | Path) -> str:
    pytest.importorskip("codespell_lib", reason="codespell comes with the extra `dev`")
    command = [sys.executable, "-m", "codespell_lib", "--toml", str(ROOT / "pyproject.toml"), *map(str, places)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout


def test_what_is_written_is_spelled_right() -> None:
    assert _wrong(*WRITTEN) == ""


def test_a_wrong_word_is_seen(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("Recieve it.")
    assert "Recieve ==> Receive" in _wrong(tmp_path / "page.md")
