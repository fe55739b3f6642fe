"""Recipes in the forms that other libraries expect: an ``nn.Module`` backbone, metrics with ``update`` and ``compute``.

The transformer for scikit-learn lies in :mod:`diffeat.interfaces.sklearn`, which needs that library.
"""

from diffeat.interfaces.hub import push_to_hub
from diffeat.interfaces.metrics import MeanIoU, PckMetric
from diffeat.interfaces.module import FeatureBackbone, FeatureInfo, as_module

__all__ = ["FeatureBackbone", "FeatureInfo", "MeanIoU", "PckMetric", "as_module", "push_to_hub"]
