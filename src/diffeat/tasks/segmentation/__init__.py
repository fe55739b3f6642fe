"""Segmentation from few labelled pictures."""

from diffeat.tasks.segmentation.boundary import boundary_counts, boundary_f
from diffeat.tasks.segmentation.confusion import Confusion
from diffeat.tasks.segmentation.ensemble import EnsembleSettings, PixelEnsemble
from diffeat.tasks.segmentation.evaluate import Segmentation, SegmentationOptions, evaluate_segmentation
from diffeat.tasks.segmentation.linear import LinearProbe
from diffeat.tasks.segmentation.pixels import PictureMaps, TrainingPixels

__all__ = [
    "Confusion",
    "EnsembleSettings",
    "LinearProbe",
    "PictureMaps",
    "PixelEnsemble",
    "Segmentation",
    "SegmentationOptions",
    "TrainingPixels",
    "boundary_counts",
    "boundary_f",
    "evaluate_segmentation",
]
