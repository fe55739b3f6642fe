"""Every command line on the pages is one that the command line takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from diffeat.cli.main import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text: str) -> list[str]:
    """Command lines in blocks of code and in code within sentences, placeholders included."""
    blocks = re.findall(r"^```(?:\w*)\n(.*?)^```", text, re.S | re.M)
    lines = [line.split(" #")[0] for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(diffeat [^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))
    parts = [part.strip() for line in lines for part in re.split(r"&&|→|\||(?<= )> ", line)]
    return [part for part in parts if re.match(r"(\.venv/bin/)?diffeat( |$)", part) and "…" not in part]


def _options(command: Any) -> set[str]:
    known = command.get_params(command.make_context("diffeat", [], resilient_parsing=True))
    return {name for option in known for name in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_taken(page: Path) -> None:
    root = typer.main.get_command(app)
    for line in commands(page.read_text(encoding="utf-8")):
        command, words = root, shlex.split(line)[1:]
        while (commands_in := getattr(command, "commands", {})) and words and not words[0].startswith("-"):
            if words[0] not in commands_in and hasattr(command, "default"):
                words = [command.default, *words]
            assert words[0] in commands_in, f"{line!r}: there is no command {words[0]!r}"
            command, words = commands_in[words[0]], words[1:]
        options = _options(command)
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word.split("=")[0] in options, f"{line!r}: there is no option {word!r}"


def test_the_readme_runs_the_checks_that_are_run() -> None:
    last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert f"```bash\n{last}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_checker_sees_what_is_wrong() -> None:
    assert commands("```\ndiffeat nothing --x 1 && diffeat b  # c\n```\n and `diffeat recipes`") == [
        "diffeat nothing --x 1", "diffeat b", "diffeat recipes",
    ]  # fmt: skip
