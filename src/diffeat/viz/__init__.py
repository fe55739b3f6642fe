"""Tensors to pictures."""

from diffeat.viz.grid import feature_grid, heat_grid
from diffeat.viz.heat import heat_overlay
from diffeat.viz.pca import pca_colours

__all__ = ["feature_grid", "heat_grid", "heat_overlay", "pca_colours"]
