"""The homography between two pictures of a plane, estimated from points that choose each other."""

from diffeat.tasks.homography.estimate import corner_error, describe, detect, find_homography, mutual_neighbours, once
from diffeat.tasks.homography.evaluate import Homographies, HomographyOptions, PlaneScore, evaluate_homographies

__all__ = [
    "Homographies",
    "HomographyOptions",
    "PlaneScore",
    "corner_error",
    "describe",
    "detect",
    "evaluate_homographies",
    "find_homography",
    "mutual_neighbours",
    "once",
]
