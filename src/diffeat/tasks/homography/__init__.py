"""The homography between two pictures of a plane, estimated from points that choose each other."""

from diffeat.tasks.homography.edit import Edit, propagate_edit
from diffeat.tasks.homography.estimate import corner_error, describe, detect, find_homography, mutual_neighbours, once
from diffeat.tasks.homography.evaluate import Homographies, HomographyOptions, PlaneScore, evaluate_homographies

__all__ = [
    "Edit",
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
    "propagate_edit",
]
