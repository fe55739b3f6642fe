"""Pictures in, feature maps out: what everything that gives features has in common.

* :class:`Picture` names a picture and opens it when it is needed.
* :class:`Source` turns pictures into features; :func:`stream` is the loop that runs one.
* :class:`FeatureMap` is what comes out.
"""

from diffeat.features.feature_map import FeatureMap
from diffeat.features.listing import Listing, list_pictures
from diffeat.features.picture import ImageLike, Picture, model_images
from diffeat.features.source import Failed, Group, Images, OnError, Prompts, Source, Spec, Whole, check_one_map
from diffeat.features.streaming import Streams, raise_error, stream

__all__ = [
    "Failed",
    "FeatureMap",
    "Group",
    "ImageLike",
    "Images",
    "Listing",
    "OnError",
    "Picture",
    "Prompts",
    "Source",
    "Spec",
    "Streams",
    "Whole",
    "check_one_map",
    "list_pictures",
    "model_images",
    "raise_error",
    "stream",
]
