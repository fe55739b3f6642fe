"""What every task needs: features of a dataset's pictures, texts for them, intervals, and results that add up."""

from diffeat.evaluation.features import Features, features_of
from diffeat.evaluation.intervals import Interval, bootstrap
from diffeat.evaluation.result import Result
from diffeat.evaluation.task import Task, TaskOptions
from diffeat.evaluation.texts import PromptPolicy, category_text, picture_texts

__all__ = [
    "Features",
    "Interval",
    "PromptPolicy",
    "Result",
    "Task",
    "TaskOptions",
    "bootstrap",
    "category_text",
    "features_of",
    "picture_texts",
]
