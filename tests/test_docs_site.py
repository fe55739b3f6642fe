"""The site: every page has its place, what is generated is up to date, and nothing is missing from the reference."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from test_docs_python import ROOMS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


class _Plain(yaml.SafeLoader):
    """Reads mkdocs.yml without what its tags name."""


_Plain.add_multi_constructor("", lambda *_: None)


def _listed(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for entry in (nav.values() if isinstance(nav, dict) else nav) for page in _listed(entry)]


def test_every_page_stands_in_the_navigation_once() -> None:
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Plain)["nav"]
    assert sorted(_listed(nav)) == sorted(page.name for page in DOCS.glob("*.md"))


def test_every_room_stands_in_the_reference_once() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("api-*.md")))
    assert sorted(re.findall(r"^::: ([\w.]+)$", text, re.M)) == sorted(ROOMS)


@pytest.fixture(scope="module")
def reference() -> Any:
    spec = importlib.util.spec_from_file_location("reference", DOCS / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["commands.md", "recipe-reference.md", "which-recipe.md"])
def test_what_is_generated_is_up_to_date(reference: Any, page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == reference.PAGES[page](), "run: python docs/reference.py"


def _build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("material", reason="the site is built where the extra `docs` is installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1", **environment}, capture_output=True, text=True
    )


def _fetched(page: Path) -> list[str]:
    """What a browser would load from elsewhere for a page."""
    loads = re.findall(
        r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)", page.read_text()
    )
    return [place for place in loads if "rel=canonical" not in place]


def test_the_site_builds_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    """Without the reference of the API, which takes most of the time: see the slow one below."""
    built = _build(tmp_path / "site", DOCS_API="false")
    assert (built.returncode, built.stdout + built.stderr) == (0, "")
    pages = [*(tmp_path / "site").rglob("*.html")]
    assert len(pages) > 30
    assert {str(page): found for page in pages if (found := _fetched(page))} == {}


@pytest.mark.slow
def test_the_whole_site_builds_strictly(tmp_path: Path) -> None:
    built = _build(tmp_path / "site")
    assert (built.returncode, built.stdout + built.stderr) == (0, "")
    reading = (tmp_path / "site" / "api-reading" / "index.html").read_text(encoding="utf-8")
    assert "extract_to_store" in reading
    assert ":class:<code>" not in reading
