"""Training of what joins features: one loop (:mod:`~diffeat.training.loop`), and what is trained in it.

:func:`train_hyperfeatures` trains the aggregation network of Diffusion Hyperfeatures; :func:`train_on_pairs` and
:func:`train_on_labels` train amalgamations. What they train is here too. A training that was stopped goes on
with the same call.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
    from diffeat.extraction.joins.amalgamation import Amalgamation, AmalgamationConfig
    from diffeat.extraction.joins.amalgamation_files import load_amalgamation, save_amalgamation
    from diffeat.training.amalgamation import Amalgamated, AmalgamateSettings, train_on_labels, train_on_pairs
    from diffeat.training.hyperfeatures.run import Outcome, Storage, TrainingData, train_hyperfeatures
    from diffeat.training.hyperfeatures.train import TrainSettings
    from diffeat.training.loop import Loop, Schedule

_HOMES = {
    "AggregationConfig": "extraction.joins.aggregation",
    "AggregationNetwork": "extraction.joins.aggregation",
    "AmalgamateSettings": "training.amalgamation",
    "Amalgamated": "training.amalgamation",
    "Amalgamation": "extraction.joins.amalgamation",
    "AmalgamationConfig": "extraction.joins.amalgamation",
    "Loop": "training.loop",
    "Outcome": "training.hyperfeatures.run",
    "Schedule": "training.loop",
    "Storage": "training.hyperfeatures.run",
    "TrainSettings": "training.hyperfeatures.train",
    "TrainingData": "training.hyperfeatures.run",
    "load_amalgamation": "extraction.joins.amalgamation_files",
    "save_amalgamation": "extraction.joins.amalgamation_files",
    "train_hyperfeatures": "training.hyperfeatures.run",
    "train_on_labels": "training.amalgamation",
    "train_on_pairs": "training.amalgamation",
}

__all__ = [
    "AggregationConfig",
    "AggregationNetwork",
    "AmalgamateSettings",
    "Amalgamated",
    "Amalgamation",
    "AmalgamationConfig",
    "Loop",
    "Outcome",
    "Schedule",
    "Storage",
    "TrainSettings",
    "TrainingData",
    "load_amalgamation",
    "save_amalgamation",
    "train_hyperfeatures",
    "train_on_labels",
    "train_on_pairs",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"diffeat.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'diffeat.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
