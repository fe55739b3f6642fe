"""diffeat: dense features for computer vision from the inside of pretrained diffusion models.

The names below load on first use, so that ``import diffeat`` and the command line stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from diffeat.__about__ import __version__
from diffeat.errors import DiffeatError

if TYPE_CHECKING:
    from diffeat.activations import Catalogue, MapRequest, read, tap
    from diffeat.backbones import Backbone
    from diffeat.extraction import Extractor, Reading, Recipe, load_source
    from diffeat.features import FeatureMap, Picture
    from diffeat.geometry import Frame
    from diffeat.interfaces import as_module
    from diffeat.storage import FeatureStore
    from diffeat.tasks import Predictor
    from diffeat.tasks.correspondence import Matches, match
    from diffeat.tasks.words import words

_HOMES = {
    "Backbone": "diffeat.backbones",
    "Catalogue": "diffeat.activations",
    "Extractor": "diffeat.extraction",
    "FeatureMap": "diffeat.features",
    "FeatureStore": "diffeat.storage",
    "Frame": "diffeat.geometry",
    "MapRequest": "diffeat.activations",
    "Matches": "diffeat.tasks.correspondence",
    "Picture": "diffeat.features",
    "Predictor": "diffeat.tasks",
    "Reading": "diffeat.extraction",
    "Recipe": "diffeat.extraction",
    "as_module": "diffeat.interfaces",
    "load_source": "diffeat.extraction",
    "match": "diffeat.tasks.correspondence",
    "read": "diffeat.activations",
    "tap": "diffeat.activations",
    "words": "diffeat.tasks.words",
}

__all__ = [
    "Backbone",
    "Catalogue",
    "DiffeatError",
    "Extractor",
    "FeatureMap",
    "FeatureStore",
    "Frame",
    "MapRequest",
    "Matches",
    "Picture",
    "Predictor",
    "Reading",
    "Recipe",
    "__version__",
    "as_module",
    "load_source",
    "match",
    "read",
    "tap",
    "words",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'diffeat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
