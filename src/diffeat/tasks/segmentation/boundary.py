r"""How well the outlines of classes are found, over a whole set.

An outline pixel of a class has its right, lower or lower right neighbour on the other side of the class's edge; edges
towards void are none. Where void lies as a band between two classes, as around the objects of Pascal VOC, the true
outline is its middle: void is given to the nearest label, as far as the distance below. What is predicted inside void
counts where it is right, and nowhere else. Counted are predicted outline pixels with a true one of the class within a
distance, and true ones with a predicted one; both are summed over all pictures, then

.. math:: F_c = \frac{2 P_c R_c}{P_c + R_c}

of each class (Csurka et al., BMVC 2013, with sums over the set in place of means over pictures, so that parts of a set
add up and a class weighs by its outlines). The distance is a share of the picture's diagonal, 0.75 % by default.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.labelled import IGNORE
from diffeat.errors import InvalidValueError

BOUND = 0.0075


def boundary_counts(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int, bound: float = BOUND
) -> NDArray[np.int64]:
    """Counts (classes, 4) of a picture's label maps (H, W); those of several pictures add up.

    Columns are predicted outline pixels, those of them that lie near a true one, true outline pixels, and those of them
    that lie near a predicted one.

    Args:
        bound: Distance as a share of the diagonal; pixels, if 1 or more.

    Raises:
        InvalidValueError: The label maps are not of one size, or hold a label that is none of the classes.
    """
    if truth.shape != predicted.shape:
        raise InvalidValueError(f"Label maps of one size are compared, got {truth.shape} and {predicted.shape}.")
    void, pixels = truth == IGNORE, _pixels(bound, truth.shape)
    whole = _closed(truth, pixels)
    counts = np.zeros((classes, 4), np.int64)
    for label in np.unique(np.concatenate([np.unique(truth[~void]), np.unique(predicted[~void])])):
        if not 0 <= label < classes:
            raise InvalidValueError(f"The label {label} is none of the {classes} classes.")
        counts[label] = _counts(predicted == label, whole == label, void, whole == IGNORE, pixels)
    return counts


def outline_counts(
    truth: NDArray[np.integer], predicted: NDArray[np.integer], bound: float = BOUND
) -> NDArray[np.int64]:
    """As :func:`boundary_counts`, (4,), of all outlines together, whatever lies on their sides.

    Example:
        >>> halves = np.array([[0, 1]]).repeat(2, 0)
        >>> outline_counts(halves, 5 - halves, bound=1).tolist()
        [2, 2, 2, 2]
    """
    pixels = _pixels(bound, truth.shape)
    whole = _closed(truth, pixels)
    return _counts(predicted, whole, truth == IGNORE, whole == IGNORE, pixels)


def _pixels(bound: float, shape: tuple[int, ...]) -> float:
    return bound if bound >= 1 else math.ceil(bound * math.hypot(*shape))


def _closed(truth: NDArray, pixels: float) -> NDArray:
    """With the label of the nearest pixel where void is no farther from it."""
    void = truth == IGNORE
    if not void.any() or void.all():
        return truth
    from scipy.ndimage import distance_transform_edt

    distances, nearest = cast(Any, distance_transform_edt(void, return_indices=True))
    return np.where(void & (distances <= pixels), truth[tuple(nearest)], truth)


def _counts(
    predicted: NDArray, truth: NDArray, void: NDArray[np.bool_], unknown: NDArray[np.bool_], pixels: float
) -> NDArray[np.int64]:
    """
    Args:
        truth: Closed, but where it is ``unknown``.
    """
    found, true = _outline(predicted, np.zeros_like(void)), np.argwhere(_outline(truth, unknown))
    places = np.argwhere(found)
    right = _near(places, true, pixels)
    counted = right | _outline(predicted, void)[found]
    return np.array([counted.sum(), right.sum(), len(true), _near(true, places, pixels).sum()], np.int64)


def _near(places: NDArray[np.int64], others: NDArray[np.int64], pixels: float) -> NDArray[np.bool_]:
    from scipy.spatial import KDTree

    if not len(places) or not len(others):
        return np.zeros(len(places), bool)
    distances, _ = KDTree(others).query(places, distance_upper_bound=pixels + 0.25)
    return distances <= pixels


def boundary_f(counts: NDArray[np.number]) -> NDArray[np.float64]:
    """F of every class, of counts (…, classes, 4); NaN where a class has no outline at all.

    Example:
        Three of four predicted outline pixels are right, and all of three true ones found.

        >>> boundary_f(np.array([[4, 3, 3, 3], [0, 0, 0, 0]])).round(3)
        array([0.857,   nan])
    """
    predicted, right, true, found = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    precision, recall = right / np.maximum(predicted, 1), found / np.maximum(true, 1)
    total = precision + recall
    f = np.divide(2 * precision * recall, total, out=np.zeros_like(total), where=total > 0)
    return np.where(predicted + true > 0, f, np.nan)


def _outline(labels: NDArray, void: NDArray[np.bool_]) -> NDArray[np.bool_]:
    found = np.zeros_like(void)
    here, right, below, across = np.s_[:-1, :-1], np.s_[:, 1:], np.s_[1:], np.s_[1:, 1:]
    for one, other in ((np.s_[:, :-1], right), (np.s_[:-1], below), (here, across)):
        found[one] |= (labels[one] != labels[other]) & ~void[one] & ~void[other]
    return found
