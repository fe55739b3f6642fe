"""Pure steps on activations."""

from diffeat.refinement.adaln import modulate
from diffeat.refinement.cleandift import CleanDiftAdapters
from diffeat.refinement.maps import concatenate, low_pass, mean_of_maps, normalise_channels, resize_map, shrink_map
from diffeat.refinement.massive import Rule, detect_massive
from diffeat.refinement.stats import ChannelStatistics
from diffeat.refinement.upsampling import UPSAMPLERS, Upsampler

__all__ = [
    "UPSAMPLERS",
    "ChannelStatistics",
    "CleanDiftAdapters",
    "Rule",
    "Upsampler",
    "concatenate",
    "detect_massive",
    "low_pass",
    "mean_of_maps",
    "modulate",
    "normalise_channels",
    "resize_map",
    "shrink_map",
]
