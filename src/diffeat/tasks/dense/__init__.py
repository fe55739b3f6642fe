"""Networks over the maps of a recipe that say something of every pixel: segmentation, depth, normals.

:func:`maps_apart` gives the recipe whose maps such a network takes, :class:`Layout` orders them by their grids,
:class:`DenseNetwork` joins them and decodes them, :class:`DenseHead` is what a run folder keeps.
"""

from diffeat.tasks.dense.head import DenseHead
from diffeat.tasks.dense.levels import Layout, Level, maps_apart
from diffeat.tasks.dense.losses import angular_loss, lovasz_softmax, scale_invariant_loss
from diffeat.tasks.dense.network import DenseNetwork
from diffeat.tasks.dense.options import DecoderOptions, DenseOptions

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
