"""Photographs of rigid scenes, whose true correspondence is known everywhere.

* stereo pairs with a disparity map: a left pixel (x, y) lies at (x − d, y) in the right picture;
* planar pairs with a homography H; HPatches is in :mod:`diffeat.datasets.hpatches`.

Points are drawn evenly from the pixels whose truth is known and lies inside the target. Two scenes need no download:
the Middlebury motorcycle inside scikit-image, and ``graf`` and ``aloe`` where Debian's package opencv-doc is
installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffeat.datasets.pairs import PairDataset, PointPair, checked, need, parsed, read_list
from diffeat.errors import DatasetError
from diffeat.geometry.images import open_stored, stored_size

OPENCV = "the folder samples/data of OpenCV (Debian's package opencv-doc)"
OPENCV_FOLDER = Path("/usr/share/doc/opencv-doc/examples/data")


def read_motorcycle(folder: str | Path, points: int = 500, seed: int = 0) -> PairDataset:
    """The stereo motorcycle of scikit-image; its two pictures are written into ``folder`` as PNG files."""
    from skimage.data import stereo_motorcycle

    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    left, right, disparity = stereo_motorcycle()
    files = root / "motorcycle-left.png", root / "motorcycle-right.png"
    for file, pixels in zip(files, (left, right), strict=True):
        if not file.exists():
            Image.fromarray(pixels).save(file)
    pair = stereo_pair("motorcycle", files[0], files[1], disparity, points, seed)
    return PairDataset("motorcycle", "all", root, (pair,))


def read_opencv_pairs(root: str | Path | None = None, points: int = 500, seed: int = 0) -> PairDataset:
    """``graf`` (homography between pictures 1 and 3) and ``aloe`` (stereo) of OpenCV's sample data.

    Raises:
        DatasetError: A file is missing; names it.
    """
    folder = Path(root) if root is not None else OPENCV_FOLDER
    name = "OpenCV's sample data"
    names = ("graf1.png", "graf3.png", "H1to3p.xml", "aloeL.jpg", "aloeR.jpg", "aloeGT.png")
    graf1, graf3, matrix, left, right, truth = (need(folder / n, name, OPENCV) for n in names)
    homography = parsed(matrix, name, OPENCV, _opencv_matrix)
    disparity = np.asarray(open_stored(truth), dtype=np.float64)
    disparity = np.where(disparity > 0, disparity, np.inf)
    pairs = (
        planar_pair("graf", graf1, graf3, homography, points, seed),
        stereo_pair("aloe", left, right, disparity, points, seed),
    )
    return PairDataset("opencv", "all", folder, checked(pairs, name, OPENCV, folder))


def stereo_pair(
    name: str, left: Path, right: Path, disparity: NDArray[np.floating], points: int, seed: int
) -> PointPair:
    """A pair with points where the disparity (pixels, not finite where unknown) stays inside the right picture."""
    (width, _), _ = stored_size(right)
    y, x = np.nonzero(np.isfinite(disparity))
    d = disparity[y, x].astype(np.float64)
    keep = (x - d >= 0) & (x - d <= width - 1)
    x, y, d = x[keep], y[keep], d[keep]
    some = _draw(len(x), points, seed)
    source = [(float(x[i]), float(y[i])) for i in some]
    target = [(float(x[i] - d[i]), float(y[i])) for i in some]
    return PointPair(name, left, right, tuple(source), tuple(target), "stereo")


def planar_pair(
    name: str,
    one: Path,
    other: Path,
    homography: NDArray[np.floating],
    points: int,
    seed: int,
    category: str = "planar",
) -> PointPair:
    """A pair with points whose image under the homography (of pixel indices) lies inside the other picture."""
    (width, height), _ = stored_size(one)
    limit, _ = stored_size(other)
    y, x = (v.ravel() for v in np.mgrid[:height, :width])
    mapped = warp(np.stack((x, y), 1), homography)
    inside = np.flatnonzero(np.all((mapped >= 0) & (mapped <= np.array(limit) - 1), axis=1))
    some = inside[_draw(len(inside), points, seed)]
    source = tuple((float(x[i]), float(y[i])) for i in some)
    return PointPair(name, one, other, source, tuple((float(a), float(b)) for a, b in mapped[some]), category)


def warp(points: NDArray[np.floating], homography: NDArray[np.floating]) -> NDArray[np.float64]:
    """Points (n, 2) under a homography."""
    lifted = np.concatenate((points, np.ones((len(points), 1))), axis=1) @ np.asarray(homography).T
    return lifted[:, :2] / lifted[:, 2:]


def _draw(count: int, points: int, seed: int) -> NDArray[np.intp]:
    if count == 0:
        raise DatasetError("No pixel of this pair has a known place in the other picture.")
    return np.sort(np.random.default_rng(seed).choice(count, min(points, count), replace=False))


def _opencv_matrix(path: Path) -> NDArray[np.float64]:
    text = read_list(path)
    data = re.search(r"<data>(.*?)</data>", text, re.DOTALL)
    if data is None:
        raise ValueError("no <data> in the file")
    numbers: Iterable[str] = data[1].split()
    return np.array([float(v) for v in numbers]).reshape(3, 3)
