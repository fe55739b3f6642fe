"""A procedural world of pictures with exact keypoints, part masks, classes and captions."""

from diffeat.datasets.toyworld.classes import CLASSES
from diffeat.datasets.toyworld.figure import PARTS
from diffeat.datasets.toyworld.world import ToyPair, ToySample, ToySurface, Toyworld

__all__ = ["CLASSES", "PARTS", "ToyPair", "ToySample", "ToySurface", "Toyworld"]
