r"""From features at key points to a homography, and how far off it is.

Two descriptors belong together where each is the other's nearest, by cosine similarity or by distance. A homography H
is estimated from such points by OpenCV (least median of squares, or RANSAC within 3 pixels) and judged by the corners
of the first picture,

.. math:: e = \tfrac14 \sum_{c} \lVert H c - H^* c \rVert_2, \qquad c \in \{0, w - 1\} \times \{0, h - 1\} .

OpenCV's generator starts anew in each call, so that results depend on the order of points and on nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from diffeat.datasets.geometric import warp
from diffeat.errors import InvalidValueError, ModelError, did_you_mean
from diffeat.features import FeatureMap
from diffeat.tasks.correspondence.axis import sample_descriptors

if TYPE_CHECKING:
    from PIL import Image

Similarity = Literal["cosine", "l2"]
Estimator = Literal["lmeds", "ransac"]
Sampling = Literal["exact", "released"]
Floats = NDArray[np.floating]


def opencv() -> Any:
    """The module ``cv2``.

    Raises:
        ModelError: It is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise ModelError("Homographies are estimated by OpenCV: pip install 'diffeat[opencv]'.") from None
    return cv2


def detect(image: Image.Image, most: int) -> Floats:
    """The strongest key points (n, 2) of a picture by OpenCV's SIFT, in pixel indices (x, y).

    Raises:
        ModelError: OpenCV is not installed.
    """
    points = opencv().SIFT_create(nfeatures=most).detect(np.asarray(image.convert("L")))
    strongest = sorted(points, key=lambda point: -point.response)[:most]
    return np.array([point.pt for point in strongest], dtype=np.float64).reshape(-1, 2)


def once(points: ArrayLike) -> Floats:
    """Points (n, 2), each once, by x and then y."""
    return np.unique(np.asarray(points), axis=0)


def describe(
    features: FeatureMap, points: Floats, sampling: Sampling = "exact", activation: str | None = None
) -> Float[Tensor, "n c"]:
    """Features at points (x, y) of the original picture, interpolated bilinearly.

    Args:
        sampling: ``"released"`` is what the code of DIFT does: outer pixels' *centres* lie on the edges of the grid,
            so that points shift by up to half a cell, and beyond the outer cells' centres there are zeros.

    Raises:
        InvalidValueError: Released sampling of a padded picture.
    """
    tensor = features.tensor if activation is None else features[activation]
    at = torch.from_numpy(np.asarray(points, dtype=np.float64))
    if sampling == "exact":
        return sample_descriptors(tensor, features.frame.points_to_grid(at, (tensor.shape[1], tensor.shape[2])))
    if features.frame.padded:
        raise InvalidValueError("The released sampling knows no padding: use a frame of mode squash or keep.")
    half = (at.new_tensor(features.frame.original) - 1) / 2
    place = ((at - half) / half).to(tensor.device, torch.float32)
    return F.grid_sample(tensor[None].float(), place[None, None], align_corners=False)[0, :, 0].T


def mutual_neighbours(
    source: Float[Tensor, "n c"], target: Float[Tensor, "m c"], similarity: Similarity = "cosine"
) -> Int[Tensor, "k 2"]:
    """Numbers of rows that are each other's nearest, in the order of ``source``; the first of equals."""
    a, b = (t.cpu().to(torch.float64) for t in (source, target))
    if not len(a) or not len(b):
        return torch.zeros(0, 2, dtype=torch.long)
    if similarity == "cosine":
        score = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T
    else:
        score = 2 * a @ b.T - (a * a).sum(1)[:, None] - (b * b).sum(1)
    forward, back = score.argmax(1), score.argmax(0)
    mutual = (back[forward] == torch.arange(len(a))).nonzero()[:, 0]
    return torch.stack((mutual, forward[mutual]), 1)


def find_homography(
    source: ArrayLike, target: ArrayLike, estimator: Estimator = "lmeds", within: float = 3
) -> tuple[Floats | None, NDArray[np.bool_]]:
    """The homography (3, 3) that takes points (n, 2) to others (n, 2), and which of them agree with it.

    Args:
        within: Of RANSAC: pixels of a point that agrees.

    Returns:
        ``None`` in place of the homography of fewer than 4 points, or where OpenCV finds none.

    Raises:
        InvalidValueError: Another estimator, or not as many points here as there.
        ModelError: OpenCV is not installed.
    """
    if estimator not in get_args(Estimator):
        raise InvalidValueError(f"No estimator {estimator!r}. {did_you_mean(str(estimator), get_args(Estimator))}")
    cv2 = opencv()
    one, other = (np.asarray(points, dtype=np.float32).reshape(-1, 2) for points in (source, target))
    if len(one) != len(other):
        raise InvalidValueError(f"There are {len(one)} points and {len(other)} others: give as many of both.")
    if len(one) < 4:
        return None, np.zeros(len(one), dtype=bool)
    method = cv2.LMEDS if estimator == "lmeds" else cv2.RANSAC
    matrix, inliers = cv2.findHomography(one, other, method, ransacReprojThreshold=within)
    agree = np.zeros(len(one), dtype=bool) if matrix is None else np.asarray(inliers).ravel() > 0
    return matrix, agree


def corner_error(homography: Floats | None, truth: ArrayLike, size: tuple[int, int]) -> float:
    """How far the corners of a (width, height) picture come to lie from their true places, in pixels; the mean.

    Infinite where there is no homography.
    """
    if homography is None:
        return float("inf")
    w, h = size[0] - 1, size[1] - 1
    corners = np.array([(0, 0), (0, h), (w, 0), (w, h)], dtype=np.float64)
    error = np.linalg.norm(warp(corners, homography) - warp(corners, np.asarray(truth)), axis=1).mean()
    return float(error) if np.isfinite(error) else float("inf")
