"""Tensors to pictures."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from diffeat.errors import ModelError
from diffeat.viz.grid import feature_grid, heat_grid
from diffeat.viz.heat import heat_overlay
from diffeat.viz.pca import pca_colours

__all__ = ["feature_grid", "heat_grid", "heat_overlay", "pca_colours"]


def __getattr__(name: str) -> Any:
    """``click`` is of the page, high above this room: it is opened when it is asked for."""
    if name == "click":
        try:
            return import_module("diffeat.app.cell").click
        except ModuleNotFoundError as error:
            raise ModelError("The page is served by FastAPI and uvicorn: pip install 'diffeat[app]'.") from error
    raise AttributeError(f"module 'diffeat.viz' has no attribute {name!r}")
