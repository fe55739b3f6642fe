"""The page of errors: every kind is there, and what it quotes is what is raised."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from diffeat import errors
from diffeat.cli.main import app
from diffeat.datasets import write_samples

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
KINDS = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and kind.__module__ == errors.__name__
}
#: What is told of each kind.
SECTIONS = dict(re.findall(r"^## (\w+Error)$(.*?)(?=^## |\Z)", TEXT, re.S | re.M))
#: A kind, a command, and what is printed.
SHOWN = [
    (kind, command, printed)
    for kind, text in SECTIONS.items()
    for block in re.findall(r"^```console\n(.*?)^```", text, re.S | re.M)
    for command, printed in re.findall(r"^\$ diffeat (.*)\n(Error: .*)$", block, re.M)
]


def test_every_kind_has_its_section_with_messages() -> None:
    assert set(SECTIONS) == {name for name in KINDS if name != "DiffeatError"}
    assert [kind for kind, text in SECTIONS.items() if "```console\n$" not in text and "```text\n" not in text] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    write_samples(folder / "photos")
    (folder / "empty").mkdir()
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.mark.parametrize(("kind", "command", "printed"), SHOWN, ids=[command for _, command, _ in SHOWN])
def test_commands_print_what_the_page_says(
    kind: str, command: str, printed: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(KINDS[kind]) as raised:
        app(shlex.split(command), "diffeat", standalone_mode=False)
    assert f"Error: {' '.join(str(raised.value).split())}" == printed


def test_other_messages_stand_in_the_source() -> None:
    """What lies between the placeholders of a message is written so where it is raised."""
    source = "\n".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / "src").rglob("*.py")))
    literals = re.sub(r'"\n\s*f?"', "", source)  # one literal over several lines
    quoted = [line for block in re.findall(r"^```text\n(.*?)^```", TEXT, re.S | re.M) for line in block.splitlines()]
    assert len(quoted) >= 4
    for message in quoted:
        for piece in message.split("…"):
            assert piece.strip() in literals, message
