"""Which of n cells a row of m "nearest neighbours" reads: libraries agree on the name and not on the cell.

OpenCV takes ⌊i·n/m⌋ at position i, computed as i·1/(m/n) in double precision, which is one cell less at some positions
of one size in twenty; PyTorch the same, as i·(n/m) in single precision. Pillow, and :class:`~diffeat.geometry.Frame`
where it looks labels up, take the cell under the centre, ⌊(i + ½)·n/m⌋, and may differ where a centre falls on an edge.
"""

from __future__ import annotations

from typing import Literal

import numpy as np


def nearest_cells(count: int, cells: int, rule: Literal["opencv", "pytorch"]) -> np.ndarray:
    """The cell (``count`` whole numbers below ``cells``) that each position reads."""
    i = np.arange(count)
    if rule == "opencv":
        at = i * (1.0 / (count / cells))
    else:
        at = i.astype(np.float32) * (np.float32(cells) / np.float32(count))
    return np.minimum(at.astype(np.int64), cells - 1)


def resized_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map (H, W) at ``size`` (width, height), by OpenCV's rule.

    Example:
        >>> resized_labels(np.arange(6)[None], (4, 1))
        array([[0, 1, 3, 4]])
    """
    rows, columns = (nearest_cells(n, m, "opencv") for n, m in zip(size[::-1], labels.shape, strict=True))
    return labels[rows[:, None], columns]
