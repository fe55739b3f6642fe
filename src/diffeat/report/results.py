"""The report of any result: one writer for each kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffeat.evaluation.result import Result
from diffeat.report.correspondence import write_report
from diffeat.report.labels import write_classification, write_segmentation
from diffeat.report.propagation import write_propagation
from diffeat.tasks.classification import Classification
from diffeat.tasks.correspondence.evaluate import Evaluation
from diffeat.tasks.propagation import Propagation
from diffeat.tasks.segmentation import Segmentation

WRITERS: dict[type, Callable[[Any, str | Path], Path]] = {
    Evaluation: write_report,
    Segmentation: write_segmentation,
    Classification: write_classification,
    Propagation: write_propagation,
}


def write_result(result: Result, folder: str | Path) -> Path:
    """Write the report of a result into a folder, which is made if missing; returns the page."""
    return WRITERS[type(result)](result, folder)
