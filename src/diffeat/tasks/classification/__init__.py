"""Classification of whole pictures from features averaged over the picture."""

from diffeat.tasks.classification.evaluate import Classification, evaluate_classification, pooled_features

__all__ = ["Classification", "evaluate_classification", "pooled_features"]
