"""Networks over the maps of a recipe that say something of every pixel: segmentation, depth, normals.

:func:`maps_apart` gives the recipe whose maps such a network takes, :class:`Layout` orders them by their grids,
:class:`DenseNetwork` joins them and decodes them, :class:`DenseHead` is what a run folder keeps.

These load on first use, so that the command line can name the options of a head at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffeat.tasks.dense.head import DenseHead
    from diffeat.tasks.dense.levels import Layout, Level, maps_apart
    from diffeat.tasks.dense.losses import angular_loss, lovasz_softmax, scale_invariant_loss
    from diffeat.tasks.dense.network import DenseNetwork
    from diffeat.tasks.dense.options import DecoderOptions, DenseOptions

_HOMES = {
    "DecoderOptions": "options",
    "DenseHead": "head",
    "DenseNetwork": "network",
    "DenseOptions": "options",
    "Layout": "levels",
    "Level": "levels",
    "angular_loss": "losses",
    "lovasz_softmax": "losses",
    "maps_apart": "levels",
    "scale_invariant_loss": "losses",
}

__all__ = [
    "DecoderOptions",
    "DenseHead",
    "DenseNetwork",
    "DenseOptions",
    "Layout",
    "Level",
    "angular_loss",
    "lovasz_softmax",
    "maps_apart",
    "scale_invariant_loss",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"diffeat.tasks.dense.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'diffeat.tasks.dense' has no attribute {name!r}")
