"""Training of what joins features: one loop (:mod:`~diffeat.training.loop`), and what is trained in it.

:func:`train_hyperfeatures` trains the aggregation network of Diffusion Hyperfeatures; :func:`train_on_pairs` and
:func:`train_on_labels` train amalgamations. A training that was stopped goes on with the same call.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffeat.training.amalgamation import Amalgamated, AmalgamateSettings, train_on_labels, train_on_pairs
    from diffeat.training.hyperfeatures.run import Outcome, Storage, TrainingData, train_hyperfeatures
    from diffeat.training.hyperfeatures.train import TrainSettings
    from diffeat.training.loop import Loop, Schedule

_HOMES = {
    "AmalgamateSettings": "amalgamation",
    "Amalgamated": "amalgamation",
    "Loop": "loop",
    "Outcome": "hyperfeatures.run",
    "Schedule": "loop",
    "Storage": "hyperfeatures.run",
    "TrainSettings": "hyperfeatures.train",
    "TrainingData": "hyperfeatures.run",
    "train_hyperfeatures": "hyperfeatures.run",
    "train_on_labels": "amalgamation",
    "train_on_pairs": "amalgamation",
}

__all__ = [
    "AmalgamateSettings",
    "Amalgamated",
    "Loop",
    "Outcome",
    "Schedule",
    "Storage",
    "TrainSettings",
    "TrainingData",
    "train_hyperfeatures",
    "train_on_labels",
    "train_on_pairs",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"diffeat.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'diffeat.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
