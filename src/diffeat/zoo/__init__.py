"""The embedded models: ordinary diffusers pipeline directories that ship inside the package."""

from __future__ import annotations

from pathlib import Path

from diffeat.errors import UnknownNameError, did_you_mean

_FOLDERS = {"tiny-unet": "tiny_unet", "tiny-dit": "tiny_dit"}


def names() -> tuple[str, ...]:
    """The embedded models."""
    return tuple(_FOLDERS)


def path(name: str) -> Path:
    """The directory of an embedded model, for ``DiffusionPipeline.from_pretrained``.

    Raises:
        UnknownNameError: no such model ships with the package.
    """
    if name not in _FOLDERS:
        raise UnknownNameError(f"No embedded model {name!r}. {did_you_mean(name, _FOLDERS)}")
    return Path(__file__).parent / _FOLDERS[name]
