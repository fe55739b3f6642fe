"""Commands of the pages run as they stand, in their order; those that need what is not here are refused in one line."""

from __future__ import annotations

import re
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from diffeat.cli.main import app
from diffeat.errors import DiffeatError
from support.belongings import lay_down
from test_docs_commands import PAGES, commands

BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.S | re.M)
#: Pages all of whose commands run with what they lay down themselves.
WHOLE = ("datasets.md", "own-data.md")
_SMALL = {"toyworld write toy": "toyworld write toy --images 2,2,2"}
#: By page: smaller numbers in place of those that take an hour on two cores.
LESS: dict[str, dict[str, str]] = {
    "commands.md": {**_SMALL, "--steps 100 ": "--steps 10 "},
    "correspondence.md": _SMALL,
    "heads.md": {"--steps 500": "--steps 20"},
    "hyperfeatures.md": {**_SMALL, "--steps 1500": "--steps 20"},
    "pictures.md": {"000..099": "000..001"},
    "words.md": {**_SMALL, "-t 100:700:300": "-t 100", "-t 50:250:100": "-t 50"},
}
#: What may be missing, and nothing else: weights of the hub, data sets, a bucket. The message says where it comes from.
NOT_HERE = re.compile(
    r"\(.*HF_HUB_OFFLINE is set.*\)| comes from http|: there are no credentials for it\."
    r"|256x256_diffusion_uncond\.pt cannot be read \(No such file"
)
#: By page: what a reader did before he came to it.
BEFORE = {
    "store.md": (
        "extract photos cat.jpg -r tiny-unet --out features",
        "extract a.png -r tiny-unet --out one",
        "extract b.png -r tiny-unet --out two",
    ),
    "interfaces.md": (
        "samples labelled --masks",
        "train probe folder --root labelled --out run",
        "eval folder --root labelled --head run --split val --out out",
    ),
}


def _excused(said: str, never_made: set[str]) -> bool:
    """Whether what is missing is not here, or is what an earlier line that was excused would have made."""
    return bool(NOT_HERE.search(said)) or any(name in said for name in never_made)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text, less = page.read_text(encoding="utf-8"), LESS.get(page.name, {})
    assert [old for old in less if old not in text] == []
    failed: list[tuple[str, str, str]] = []
    never_made: set[str] = set()
    for number, block in enumerate(BLOCK.findall(text)):
        folder = tmp_path / (str(number) if page.name == "commands.md" else "page")  # examples of commands stand alone
        if not folder.exists():
            folder.mkdir()
            lay_down(folder, block if page.name == "commands.md" else text)
            monkeypatch.chdir(folder)
            for line in BEFORE.get(page.name, ()):
                assert CliRunner().invoke(app, shlex.split(line)).exit_code == 0, line
        monkeypatch.chdir(folder)
        for line in commands(f"```\n{block}```"):
            for old, new in less.items():
                line = line.replace(old, new)
            words = shlex.split(line)[1:]
            if words[0] == "app" or "--ray" in words:  # which serve, want a cluster
                continue
            done = CliRunner().invoke(app, words)
            error = done.exception
            assert error is None or isinstance(error, (SystemExit, DiffeatError)), line
            if isinstance(error, DiffeatError):
                assert "\n" not in str(error), line
                print(f"{line}: {error}")  # told by -rP
            if not done.exit_code:
                continue
            if page.name not in WHOLE and done.exit_code == 1 and _excused(f"{error} {done.output}", never_made):
                never_made |= {
                    f"'{after}" for option, after in pairwise(words) if option in ("--out", "--to", "--write")
                }
            else:
                failed.append((line, str(error), done.output[-500:]))
    assert not failed
    shutil.rmtree(tmp_path)
