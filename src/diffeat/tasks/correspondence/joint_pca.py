r"""Joint PCA of a pair: both pictures' features on the principal components of all their tokens together.

DiTF's "†" rows concatenate its features with DINOv2's and project the pair to 1280 dimensions (Gan et al.,
arXiv:2505.18584, eq. 14). The tokens of both pictures are stacked, centred by their common mean and projected on the
eigenvectors of largest variance. Cosines are then of centred vectors: what all tokens of the pair share, such as a
constant massive channel, no longer counts. With as many components as there is rank, only the centring remains.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from diffeat.ambient import neutral
from diffeat.errors import InvalidValueError
from diffeat.features import FeatureMap
from diffeat.tasks.correspondence.matching import pick

#: Dimensions of the paper's "†" rows.
DIMENSIONS = 1280


@neutral()
def joint_pca(
    one: Float[Tensor, "c h w"], other: Float[Tensor, "c2 h2 w2"], dimensions: int = DIMENSIONS
) -> tuple[Float[Tensor, "d h w"], Float[Tensor, "d h2 w2"]]:
    """Project two maps on their joint principal components.

    Args:
        dimensions: At most; fewer where the tokens span fewer.

    Raises:
        InvalidValueError: If the channels differ, or there would be no dimension.
    """
    if one.shape[0] != other.shape[0]:
        raise InvalidValueError(f"A joint PCA takes equal channels, got {one.shape[0]} and {other.shape[0]}.")
    if dimensions < 1:
        raise InvalidValueError(f"A joint PCA takes at least one dimension, got {dimensions}.")
    tokens = torch.cat([one.flatten(1).T, other.flatten(1).T]).float()
    tokens = tokens - tokens.mean(0)
    if dimensions < min(tokens.shape):
        if tokens.shape[0] < tokens.shape[1]:  # the small side has the same spectrum
            values, vectors = torch.linalg.eigh(tokens @ tokens.T)
            tokens = vectors[:, -dimensions:] * values[-dimensions:].clamp(min=0).sqrt()
        else:
            tokens = tokens @ torch.linalg.eigh(tokens.T @ tokens).eigenvectors[:, -dimensions:]
    first, second = tokens.split([one[0].numel(), other[0].numel()])
    return first.T.unflatten(1, one.shape[1:]), second.T.unflatten(1, other.shape[1:])


def joint_pca_pair(
    source: FeatureMap, target: FeatureMap, dimensions: int = DIMENSIONS, activation: str | None = None
) -> tuple[FeatureMap, FeatureMap]:
    """The features of two pictures, projected jointly."""
    projected = joint_pca(pick(source, activation), pick(target, activation), dimensions)
    one, other = (
        FeatureMap({"joint": tensor}, f.frame, f.image, f.digest, f.provenance)
        for tensor, f in zip(projected, (source, target), strict=True)
    )
    return one, other
