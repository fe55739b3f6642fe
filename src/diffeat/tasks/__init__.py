"""Uses of features, and how each is scored: ``evaluate_…(data, source, options)`` gives a result with ``value``,
``interval()``, ``table()`` and ``merge()`` (:class:`diffeat.evaluation.Result`).
"""

from diffeat.tasks.classification import Classification, evaluate_classification
from diffeat.tasks.correspondence.evaluate import CorrespondenceOptions, Evaluation, evaluate_pairs
from diffeat.tasks.homography import Homographies, HomographyOptions, evaluate_homographies
from diffeat.tasks.predictors.fit import fit_class_probe, fit_pixel_probe
from diffeat.tasks.predictors.predictor import Prediction, Predictor
from diffeat.tasks.predictors.windows import Windows
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
    "Prediction",
    "Predictor",
    "Propagation",
    "PropagationOptions",
    "Segmentation",
    "SegmentationOptions",
    "Windows",
    "evaluate_classification",
    "evaluate_homographies",
    "evaluate_pairs",
    "evaluate_segmentation",
    "evaluate_videos",
    "fit_class_probe",
    "fit_pixel_probe",
    "options_for",
    "task_of",
]
