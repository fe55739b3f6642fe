"""Uses of features, and how each is scored: ``evaluate_…(data, source, options)`` gives a result with ``value``,
``interval()``, ``table()`` and ``merge()`` (:class:`diffeat.evaluation.Result`).
"""

from diffeat.tasks.classification import Classification, evaluate_classification
from diffeat.tasks.correspondence.evaluate import CorrespondenceOptions, Evaluation, evaluate_pairs
from diffeat.tasks.homography import Homographies, HomographyOptions, evaluate_homographies
from diffeat.tasks.masks import MaskScores
from diffeat.tasks.parts.evaluate import PartsOptions, evaluate_parts
from diffeat.tasks.predictors.fit import fit_class_probe, fit_pixel_probe
from diffeat.tasks.predictors.predictor import Prediction, Predictor
from diffeat.tasks.predictors.windows import Windows
from diffeat.tasks.propagation import Propagation, PropagationOptions, evaluate_videos
from diffeat.tasks.registry import TASKS, options_for, task_of
from diffeat.tasks.segmentation import Segmentation, SegmentationOptions, evaluate_segmentation
from diffeat.tasks.words.evaluate import WordsOptions, evaluate_words

__all__ = [
    "TASKS",
    "Classification",
    "CorrespondenceOptions",
    "Evaluation",
    "Homographies",
    "HomographyOptions",
    "MaskScores",
    "PartsOptions",
    "Prediction",
    "Predictor",
    "Propagation",
    "PropagationOptions",
    "Segmentation",
    "SegmentationOptions",
    "Windows",
    "WordsOptions",
    "evaluate_classification",
    "evaluate_homographies",
    "evaluate_pairs",
    "evaluate_parts",
    "evaluate_segmentation",
    "evaluate_videos",
    "evaluate_words",
    "fit_class_probe",
    "fit_pixel_probe",
    "options_for",
    "task_of",
]
