"""The recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent.parent / "recipes"


def preset_names() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(p.stem for p in _FOLDER.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """File of a preset that :func:`preset_names` lists."""
    return _FOLDER / f"{name}.yaml"
