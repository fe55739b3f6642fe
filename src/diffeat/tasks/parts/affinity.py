r"""How much the nodes of a graph belong together, every two of them.

From unit-length features with cosines S,

.. math:: A_{ij} = \Bigl(\frac{S_{ij} - \min S}{\max S - \min S}\Bigr)^{\alpha}

(DiffCut, arXiv:2406.02842, α = 10). The matrix takes 4 bytes for every two nodes. Where that is more memory than is
allowed, m nodes spread over all stand for the rest (Nyström; Fowlkes et al. 2004): A ≈ F Fᵀ, F (n × m) from the
columns of those m nodes, and nothing larger than F is made.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from diffeat.errors import InvalidValueError

Array = NDArray[np.floating]
Nodes = NDArray[np.integer]

#: Nodes up to which matrices are float64 and eigenproblems solved densely.
SMALL = 512
#: Nodes that stand for all at most.
_LANDMARKS = 1024


class Affinity(Protocol):
    """A symmetric matrix without negative entries, to be multiplied with and restricted."""

    @property
    def size(self) -> int:
        """Nodes."""
        ...

    def apply(self, columns: Array) -> Array:
        """The matrix times ``(n,)`` or ``(n, k)``."""
        ...

    def of(self, nodes: Nodes) -> Affinity:
        """Rows and columns of some nodes."""
        ...

    def block(self, nodes: Nodes) -> Array:
        """Their entries, float64."""
        ...


class Dense:
    """An affinity as it is."""

    def __init__(self, matrix: Array) -> None:
        self.matrix = matrix

    @property
    def size(self) -> int:
        return len(self.matrix)

    def apply(self, columns: Array) -> Array:
        return self.matrix @ columns.astype(self.matrix.dtype, copy=False)

    def of(self, nodes: Nodes) -> Dense:
        return Dense(self.matrix[np.ix_(nodes, nodes)])

    def block(self, nodes: Nodes) -> Array:
        return self.matrix[np.ix_(nodes, nodes)].astype(np.float64)


class Factored:
    """An affinity F Fᵀ that is never formed."""

    def __init__(self, factor: Array) -> None:
        self.factor = factor

    @property
    def size(self) -> int:
        return len(self.factor)

    def apply(self, columns: Array) -> Array:
        return self.factor @ (self.factor.T @ columns.astype(self.factor.dtype, copy=False))

    def of(self, nodes: Nodes) -> Factored:
        return Factored(self.factor[nodes])

    def block(self, nodes: Nodes) -> Array:
        rows = self.factor[nodes].astype(np.float64)
        return np.maximum(rows @ rows.T, 0)


def affinity_of(features: Array, alpha: float = 10, memory: int = 2**30) -> Affinity | None:
    """The affinity of features (n, C), a row a node; ``None`` where all are alike, so that nothing can be told apart.

    Args:
        alpha: The exponent; more of it makes what is unlike count less.
        memory: Bytes that may be taken; with fewer than the whole matrix takes, it is approximated.

    Raises:
        InvalidValueError: Features that are not finite, a negative exponent, or memory for no two columns.

    Example:
        >>> affinity_of(np.eye(2, 4)).block(np.arange(2))
        array([[1., 0.],
               [0., 1.]])
    """
    if not alpha > 0:
        raise InvalidValueError(f"The exponent of affinities must be more than 0, not {alpha}.")
    n = len(features)
    unit = _unit(features, np.float64 if n <= SMALL else np.float32)
    if not np.isfinite(unit).all():
        raise InvalidValueError("These features are not all finite, so they cannot be compared.")
    if n * n * unit.itemsize <= memory:
        return affinity_of_cosines(unit @ unit.T, alpha)
    count = min(_LANDMARKS, n, memory // (2 * n * unit.itemsize))
    if count < 2:
        raise InvalidValueError(f"{memory} bytes are too few for a graph of {n} nodes; allow {16 * n} at least.")
    return _nystrom(unit, spread(n, count), alpha)


def affinity_of_cosines(cosines: Array, alpha: float = 10) -> Dense | None:
    """The affinity of nodes whose cosines (n, n) are known, which it takes over; ``None`` where all are alike."""
    low, high = cosines.min(), cosines.max()
    return None if _alike(low, high) else Dense(_powered(cosines, low, high, alpha))


def _nystrom(unit: Array, landmarks: Nodes, alpha: float) -> Affinity | None:
    cosines = unit @ unit[landmarks].T
    low, high = cosines.min(), cosines.max()
    if _alike(low, high):
        return None
    columns = _powered(cosines, low, high, alpha)
    values, vectors = scipy.linalg.eigh(columns[landmarks].astype(np.float64))
    kept = values > 1e-6 * values[-1]
    return Factored(columns @ (vectors[:, kept] / np.sqrt(values[kept])).astype(columns.dtype))


def spread(n: int, count: int) -> Nodes:
    """So many of n nodes, spread evenly."""
    return np.linspace(0, n - 1, count).round().astype(np.intp)


def _unit(features: Array, dtype: type[np.floating]) -> Array:
    rows = np.asarray(features, dtype=dtype)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _alike(low: float, high: float) -> bool:
    return not high - low > 1e-6


def _powered(cosines: Array, low: float, high: float, alpha: float) -> Array:
    """In place, by squaring where the exponent is whole: ten times as fast as a general power."""
    cosines -= low
    cosines /= high - low
    np.maximum(cosines, 0, out=cosines)
    if alpha != int(alpha) or alpha > 64:
        return np.power(cosines, alpha, out=cosines)
    result, power = np.ones_like(cosines) if alpha % 2 == 0 else cosines.copy(), int(alpha) // 2
    while power:
        cosines *= cosines
        if power % 2:
            result *= cosines
        power //= 2
    return result
