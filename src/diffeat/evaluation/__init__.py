"""What every task needs: features of a dataset's pictures, texts for them, intervals, and results that add up."""

from diffeat.evaluation.features import Features, features_of
from diffeat.evaluation.intervals import Interval, bootstrap
from diffeat.evaluation.result import Result
from diffeat.evaluation.task import Task, TaskOptions
from diffeat.evaluation.texts import PromptPolicy, picture_texts, text_of

__all__ = [
    "Features",
    "Interval",
    "PromptPolicy",
    "Result",
    "Task",
    "TaskOptions",
    "bootstrap",
    "features_of",
    "picture_texts",
    "text_of",
]
