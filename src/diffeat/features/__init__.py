"""Pictures in, feature maps out: what everything that gives features has in common."""

from diffeat.features.feature_map import FeatureMap
from diffeat.features.picture import ImageLike, Picture, load_picture

__all__ = ["FeatureMap", "ImageLike", "Picture", "load_picture"]
