"""The lock, the package's metadata and the files beside it agree with each other."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from diffeat import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "constraints.txt").read_text(encoding="utf-8")


def _pins() -> dict[str, set[str]]:
    """Versions by package; several where Pythons differ."""
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", LOCK, re.M):
        pins.setdefault(name.lower(), set()).add(version)
    return pins


def test_the_lock_pins_all_that_is_asked_for() -> None:
    pins = _pins()
    asked = [*PROJECT["dependencies"], *(r for extra in PROJECT["optional-dependencies"].values() for r in extra)]
    for wanted in map(Requirement, asked):
        if wanted.name != "diffeat":
            assert wanted.name in pins, wanted
            assert all(version in wanted.specifier for version in pins[wanted.name]), wanted


def test_the_lock_says_how_it_is_made_and_names_no_host() -> None:
    assert re.search(r"^# +uv pip compile .*--python-version 3\.11 .*pyproject\.toml -o constraints\.txt$", LOCK, re.M)
    assert "://" not in LOCK
    assert "+" not in "".join(next(iter(found)) for found in _pins().values()), "local versions are of one machine"


def test_the_citation_has_what_the_format_asks_for() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["cff-version"], citation["version"], citation["type"]) == ("1.2.0", __version__, "software")
    for entry in citation["references"]:
        assert {"type", "title", "authors"} <= set(entry)
    papers = (ROOT / "docs" / "cite.md").read_text(encoding="utf-8")
    assert [entry["url"] for entry in citation["references"] if entry["url"] not in papers] == []


def test_the_pythons_of_the_metadata_are_told_on_the_page() -> None:
    pythons = re.findall(r"Programming Language :: Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]
    assert f"**Python** {pythons[0]} to {pythons[-1]}" in (ROOT / "docs" / "releases.md").read_text(encoding="utf-8")
