"""The report of any result: one writer for each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffeat.evaluation.result import Result
from diffeat.report.correspondence import write_report
from diffeat.report.heads import write_scored
from diffeat.report.homography import write_homographies
from diffeat.report.labels import write_classification, write_masks, write_segmentation
from diffeat.report.propagation import write_propagation
from diffeat.tasks.classification import Classification
from diffeat.tasks.correspondence.evaluate import Evaluation
from diffeat.tasks.homography import Homographies
from diffeat.tasks.masks import MaskScores
from diffeat.tasks.predictors.evaluate import Scored
from diffeat.tasks.propagation import Propagation
from diffeat.tasks.segmentation import Segmentation

WRITERS: dict[type, Callable[..., Path]] = {
    Evaluation: write_report,
    Homographies: write_homographies,
    Segmentation: write_segmentation,
    Classification: write_classification,
    Propagation: write_propagation,
    Scored: write_scored,
    MaskScores: write_masks,
}


def write_result(result: Result, folder: str | Path, *, force: bool = False) -> Path:
    """Write the report of a result into a folder, which is made if missing; returns the page.

    Raises:
        InvalidValueError: There is one already, and it may not be replaced (``force``).
    """
    return WRITERS[type(result)](result, folder, force=force)
