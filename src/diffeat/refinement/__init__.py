"""Pure steps on activations."""

from diffeat.refinement.maps import concatenate, mean_of_maps, normalise_channels, resize_map, shrink_map

__all__ = ["concatenate", "mean_of_maps", "normalise_channels", "resize_map", "shrink_map"]
