"""A procedural world of pictures with exact keypoints, part masks, classes and captions."""

from .figure import PARTS
from .world import CLASSES, ToyPair, ToySample, Toyworld

__all__ = ["CLASSES", "PARTS", "ToyPair", "ToySample", "Toyworld"]
