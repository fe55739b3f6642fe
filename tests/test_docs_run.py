"""Commands of the pages run as they stand, in their order; those that need what is not here are refused in one line."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.errors import DiffeatError
from test_docs_commands import PAGES, commands

BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.S | re.M)
#: Pages all of whose commands run with what they lay down themselves.
WHOLE = ("datasets.md", "own-data.md")
_SMALL = {"toyworld write toy": "toyworld write toy --images 2,2,2"}
#: By page: smaller numbers in place of those that take an hour on two cores.
LESS: dict[str, dict[str, str]] = {
    "commands.md": {**_SMALL, "--steps 100 ": "--steps 10 "},
    "heads.md": {"--steps 500": "--steps 20"},
    "hyperfeatures.md": {**_SMALL, "--steps 1500": "--steps 20"},
    "words.md": {**_SMALL, "-t 100:700:300": "-t 100", "-t 50:250:100": "-t 50"},
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    less = LESS.get(page.name, {})
    assert [old for old in less if old not in page.read_text(encoding="utf-8")] == []
    for number, block in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
        folder = tmp_path / (str(number) if page.name == "commands.md" else "page")  # examples of commands stand alone
        folder.mkdir(exist_ok=True)
        monkeypatch.chdir(folder)
        for line in commands(f"```\n{block}```"):
            for old, new in less.items():
                line = line.replace(old, new)
            words = shlex.split(line)[1:]
            if words[0] in ("app", "bench") or "--ray" in words:  # which serve, measure for long, want a cluster
                continue
            done = CliRunner().invoke(app, words)
            error = done.exception
            assert error is None or isinstance(error, (SystemExit, DiffeatError)), line
            refused = isinstance(error, DiffeatError)
            if refused:
                assert "\n" not in str(error), line
                print(f"{line}: {error}")  # told by -rP
            allowed = page.name not in WHOLE and (refused or done.exit_code == 1)  # 2 is a line that is not understood
            assert done.exit_code == 0 or allowed, (line, str(error), done.output[-500:])
    shutil.rmtree(tmp_path)
