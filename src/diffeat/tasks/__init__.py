"""Uses of features, and how each is scored: ``evaluate_…(data, source, options)`` gives a result with ``value``,
``interval()``, ``table()`` and ``merge()`` (:class:`diffeat.evaluation.Result`).
"""

from diffeat.tasks.classification import Classification, evaluate_classification
from diffeat.tasks.correspondence.evaluate import CorrespondenceOptions, Evaluation, evaluate_pairs
from diffeat.tasks.homography import Homographies, HomographyOptions, evaluate_homographies
from diffeat.tasks.propagation import Propagation, PropagationOptions, evaluate_videos
from diffeat.tasks.registry import TASKS, options_for, task_of
from diffeat.tasks.segmentation import Segmentation, SegmentationOptions, evaluate_segmentation

__all__ = [
    "TASKS",
    "Classification",
    "CorrespondenceOptions",
    "Evaluation",
    "Homographies",
    "HomographyOptions",
    "Propagation",
    "PropagationOptions",
    "Segmentation",
    "SegmentationOptions",
    "evaluate_classification",
    "evaluate_homographies",
    "evaluate_pairs",
    "evaluate_segmentation",
    "evaluate_videos",
    "options_for",
    "task_of",
]
