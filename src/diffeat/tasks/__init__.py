"""Uses of features, and how each is scored: ``evaluate_…(data, source, options)`` gives a result with ``value``,
``interval()``, ``table()`` and ``merge()`` (:class:`diffeat.evaluation.Result`).

These load on first use, so that the command line can name the options of tasks at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffeat.tasks.classification import Classification, evaluate_classification
    from diffeat.tasks.correspondence.evaluate import CorrespondenceOptions, Evaluation, evaluate_pairs
    from diffeat.tasks.homography import Homographies, HomographyOptions, evaluate_homographies
    from diffeat.tasks.masks import MaskScores
    from diffeat.tasks.parts.evaluate import PartsOptions, evaluate_parts
    from diffeat.tasks.predictors.evaluate import Scored, evaluate_head
    from diffeat.tasks.predictors.fit import fit_class_probe, fit_pixel_probe
    from diffeat.tasks.predictors.predictor import Prediction, Predictor
    from diffeat.tasks.predictors.windows import Windows
    from diffeat.tasks.propagation import Propagation, PropagationOptions, evaluate_videos
    from diffeat.tasks.registry import TASKS, options_for, task_of
    from diffeat.tasks.segmentation import Segmentation, SegmentationOptions, evaluate_segmentation
    from diffeat.tasks.words.evaluate import WordsOptions, evaluate_words

_HOMES = {
    "Classification": "classification",
    "CorrespondenceOptions": "correspondence.evaluate",
    "Evaluation": "correspondence.evaluate",
    "Homographies": "homography",
    "HomographyOptions": "homography",
    "MaskScores": "masks",
    "PartsOptions": "parts.evaluate",
    "Prediction": "predictors.predictor",
    "Predictor": "predictors.predictor",
    "Propagation": "propagation",
    "PropagationOptions": "propagation",
    "Scored": "predictors.evaluate",
    "Segmentation": "segmentation",
    "SegmentationOptions": "segmentation",
    "TASKS": "registry",
    "Windows": "predictors.windows",
    "WordsOptions": "words.evaluate",
    "evaluate_classification": "classification",
    "evaluate_head": "predictors.evaluate",
    "evaluate_homographies": "homography",
    "evaluate_pairs": "correspondence.evaluate",
    "evaluate_parts": "parts.evaluate",
    "evaluate_segmentation": "segmentation",
    "evaluate_videos": "propagation",
    "evaluate_words": "words.evaluate",
    "fit_class_probe": "predictors.fit",
    "fit_pixel_probe": "predictors.fit",
    "options_for": "registry",
    "task_of": "registry",
}

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
    "Scored",
    "Segmentation",
    "SegmentationOptions",
    "Windows",
    "WordsOptions",
    "evaluate_classification",
    "evaluate_head",
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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"diffeat.tasks.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'diffeat.tasks' has no attribute {name!r}")
