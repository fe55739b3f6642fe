r"""Normalised cuts: a graph is cut in two where that costs least, and each side again.

The cost of cutting a graph with affinity A and degrees d into S and the rest T (Shi and Malik 2000) is

.. math:: \mathrm{ncut}(S, T) = \frac{c}{\sum_{i \in S} d_i} + \frac{c}{\sum_{i \in T} d_i},
    \qquad c = \sum_{i \in S, j \in T} A_{ij} .

The second eigenvector of (D − A) y = λ D y is its continuous solution; of some thresholds on y the one of least cost is
taken. λ is the least cost that there can be. A part is cut while that costs less than a threshold (published: 0.5;
DiffCut, arXiv:2406.02842), or until there are as many parts as wanted, the cheapest cut first. The spectrum says how
many: groups that hang together loosely give eigenvalues near 0, one for each, and what is inside a group gives the
others, so the widest gap between the smallest eigenvalues of the whole graph counts the groups.

Up to :data:`~diffeat.tasks.parts.affinity.SMALL` nodes the eigenproblem is solved densely; beyond, by Lanczos iteration
from the solution of a part of the nodes, with the known first eigenvector taken out.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from numpy.typing import NDArray

from diffeat.errors import InvalidValueError
from diffeat.progress import Progress, silent
from diffeat.tasks.parts.affinity import SMALL, Affinity, Array, Dense, Nodes, spread

#: Thresholds that are tried on an eigenvector, between 0.99 of its ends.
THRESHOLDS = 100
#: Eigenvalues among which a gap is looked for.
_SPECTRUM = 20

#: What becomes of nodes that have no affinity at all to some other node.
Isolated = Literal["keep", "drop"]


@dataclass(frozen=True)
class Bipartition:
    """The best cut of a graph in two.

    Attributes:
        vector: The second eigenvector (n,), in the scale in which D-products are 1; its largest entry is positive.
        thresholds: That were tried.
        values: The cost of each.
    """

    vector: Array
    thresholds: Array
    values: Array

    @property
    def value(self) -> float:
        """The least cost."""
        return float(self.values.min())

    @property
    def positive(self) -> NDArray[np.bool_]:
        """The nodes above the best threshold."""
        return self.vector > self.thresholds[int(self.values.argmin())]


def bipartition(affinity: Affinity) -> Bipartition:
    """The normalised cut of a graph of two nodes at least.

    Example:
        >>> cut = bipartition(Dense(np.array([[1, 0.9, 0], [0.9, 1, 0.1], [0, 0.1, 1]])))
        >>> cut.positive.tolist(), round(cut.value, 3)
        ([False, False, True], 0.117)
    """
    degrees = _degrees(affinity)
    vector = _second_vector(affinity, degrees)
    vector = vector * np.sign(vector[np.abs(vector).argmax()])
    thresholds = np.linspace(0.99 * vector.min(), 0.99 * vector.max(), THRESHOLDS)
    return Bipartition(vector, thresholds, _costs(affinity, degrees, vector, thresholds))


def _degrees(affinity: Affinity) -> Array:
    return np.maximum(affinity.apply(np.ones(affinity.size)).astype(np.float64), 1e-12)


def _costs(affinity: Affinity, degrees: Array, vector: Array, thresholds: Array) -> Array:
    """Of the cut at every threshold: the nodes between two thresholds are summed up once."""
    above = np.searchsorted(thresholds, vector, side="left")  # how many thresholds a node lies above
    groups = np.zeros((len(vector), len(thresholds) + 1))
    groups[np.arange(len(vector)), above] = 1
    between = groups.T @ affinity.apply(groups).astype(np.float64)
    inside = between[::-1, ::-1].cumsum(0).cumsum(1)[::-1, ::-1].diagonal()[1:]
    volume = (degrees @ groups)[::-1].cumsum()[::-1]
    cut, rest = np.maximum(volume[1:] - inside, 0), volume[0] - volume[1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        costs = cut / volume[1:] + cut / rest
    return np.where((volume[1:] > 0) & (rest > 1e-12 * volume[0]), costs, np.inf)


def smallest_eigenvalues(affinity: Affinity, count: int = _SPECTRUM) -> Array:
    """Of (D − A) y = λ D y; of a large graph, of that many nodes spread over it."""
    some = affinity.block(spread(affinity.size, min(SMALL, affinity.size)))
    degrees = np.maximum(some.sum(1), 1e-12)
    last = min(count, len(some)) - 1
    return scipy.linalg.eigh(np.diag(degrees) - some, np.diag(degrees), eigvals_only=True, subset_by_index=[0, last])


def parts_in(eigenvalues: Array) -> int:
    """How many eigenvalues lie below the widest gap after the second of them.

    Example:
        >>> parts_in(np.array([0.0, 0.01, 0.02, 0.5, 0.6]))
        3
    """
    gaps = np.diff(eigenvalues[1:])
    return int(gaps.argmax()) + 2 if len(gaps) else len(eigenvalues)


def _second_vector(affinity: Affinity, degrees: Array) -> Array:
    n = affinity.size
    if n <= SMALL:
        matrix = affinity.block(np.arange(n))
        return scipy.linalg.eigh(np.diag(degrees) - matrix, np.diag(degrees), subset_by_index=[0, 1])[1][:, 1]
    root = np.sqrt(degrees)
    first = root / np.linalg.norm(root)

    def without_first(x: Array) -> Array:
        x = x.ravel()
        return affinity.apply(x / root).astype(np.float64) / root - first * (first @ x)

    some = spread(n, SMALL // 2)
    there = _second_vector(Dense(affinity.block(some)), np.maximum(affinity.block(some).sum(1), 1e-12))
    start = np.zeros(n)
    start[some] = there
    operator = scipy.sparse.linalg.LinearOperator((n, n), matvec=without_first, dtype=np.float64)  # pyright: ignore
    begin = without_first(without_first(start * root))
    _, vectors = scipy.sparse.linalg.eigsh(operator, k=1, which="LA", v0=begin, tol=1e-5, maxiter=100 * SMALL)  # pyright: ignore
    return vectors[:, 0] / root


@dataclass
class _Part:
    """Nodes, how they would be cut, and the two parts where they were."""

    nodes: Nodes
    cut: Bipartition | None
    used: Nodes
    sides: tuple[_Part, _Part] | None = None

    @property
    def value(self) -> float:
        return float("inf") if self.cut is None else self.cut.value


@dataclass(frozen=True)
class Cuts:
    """A graph that was cut into parts.

    Attributes:
        masks: For every cut, the nodes on its positive side (cuts, n); each cut before
            those of its sides, the positive side first.
        labels: The part of every node, from 0.
    """

    masks: NDArray[np.bool_]
    labels: NDArray[np.intp]


def normalised_cuts(
    affinity: Affinity,
    threshold: float | None = None,
    parts: int | None = None,
    isolated: Isolated = "keep",
    progress: Progress = silent,
) -> Cuts:
    """Cut a graph again and again, the cheapest cut first.

    Args:
        threshold: Cost from which a part stays whole.
        parts: Stop at this number of parts; with neither, at the number that the spectrum says.
        isolated: ``"drop"`` is the published way: from the second cut on, a node that has an affinity of exactly 0 to
            any other takes no part in deeper cuts and falls to the first part of its side. The least similar two nodes
            always do.

    Raises:
        InvalidValueError: A number of parts below 1 or above that of nodes, or a threshold that is no cost.
    """
    n = affinity.size
    if parts is not None and not 1 <= parts <= n:
        raise InvalidValueError(f"Between 1 and {n} parts can be made of {n} places, not {parts}.")
    if threshold is not None and not 0 <= threshold <= 2:
        raise InvalidValueError(f"A threshold lies between 0 and 2, the most that a cut can cost, not {threshold:g}.")
    if threshold is None and parts is None:
        parts = parts_in(smallest_eigenvalues(affinity))
    whole = _considered(affinity, np.arange(n), np.arange(n))
    gone = _isolated(affinity) if isolated == "drop" else None
    waiting = [(whole.value, 0, whole)]
    cut = 0
    for made in progress(range(1, parts or n), total=(parts or n) - 1, desc="cuts"):
        value, _, part = heapq.heappop(waiting)
        if part.cut is None or (threshold is not None and value >= threshold):
            break
        positive = part.cut.positive
        sides = []
        for nodes in (part.used[positive], part.used[~positive]):
            used = nodes if gone is None else nodes[~gone[nodes]]
            final = made + 1 == parts  # nothing is cut any more
            sides.append(_Part(nodes, None, used) if final else _considered(affinity, nodes, used))
            heapq.heappush(waiting, (sides[-1].value, made * 2 + len(sides), sides[-1]))
        part.sides = (sides[0], sides[1])
        cut += 1
    masks = np.zeros((cut, n), dtype=bool)
    for mask, nodes in zip(masks, _positive_sides(whole), strict=True):
        mask[nodes] = True
    return Cuts(masks, _numbered(masks))


def _considered(affinity: Affinity, nodes: Nodes, used: Nodes) -> _Part:
    if len(used) < 2:
        return _Part(nodes, None, used)
    cut = bipartition(affinity if len(used) == affinity.size else affinity.of(used))
    return _Part(nodes, cut if np.isfinite(cut.value) else None, used)


def _isolated(affinity: Affinity) -> NDArray[np.bool_]:
    rows = (affinity.apply(np.eye(affinity.size)[:, some]) for some in np.array_split(np.arange(affinity.size), 16))
    return np.any([(block == 0).any(1) for block in rows], axis=0)


def _positive_sides(part: _Part) -> Iterator[Nodes]:
    if part.sides is not None:
        yield part.sides[0].nodes
        for side in part.sides:
            yield from _positive_sides(side)


def _numbered(masks: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Nodes of the same masks have the same number; the last mask counts most."""
    if not len(masks):
        return np.zeros(masks.shape[1], dtype=np.intp)
    _, labels = np.unique(masks[::-1].T, axis=0, return_inverse=True)
    return labels.reshape(-1)
