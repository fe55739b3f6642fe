"""Photographs with known geometry: points within so many pixels, and the end-point error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.tables.rows import FILES, RowSource, score_rows, write_bench
from diffeat.datasets.geometric import read_motorcycle, read_opencv_pairs
from diffeat.datasets.hpatches import read_hpatches_points
from diffeat.datasets.pairs import PairDataset
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.evaluation.result import Table
from diffeat.extraction import Baseline, Extractor, Reading
from diffeat.extraction.baselines import Daisy, RgbPatches
from diffeat.files import new_folder
from diffeat.geometry import FrameSpec, open_image
from diffeat.progress import Progress, silent
from diffeat.tasks.correspondence.keypoints import PairRecord, PckResult, pck, record_pair
from diffeat.tasks.correspondence.protocol import Protocol, get_protocol

PROTOCOL: Protocol = get_protocol("geometry").replace(name="geometry", alphas=(2, 4, 8, 16))
#: Pictures larger than this are reduced for SIFT: scikit-image takes minutes for one of a megapixel.
LONGER = 640


@dataclass(frozen=True)
class GeometryRow:
    """Scores of one way to match."""

    name: str
    result: PckResult
    median_error: float
    mean_error: float


def run_geometry(
    folder: str | Path,
    *,
    recipes: Sequence[str] = ("tiny-dift",),
    opencv: str | Path | None = None,
    hpatches: str | Path | None = None,
    points: int = 500,
    progress: Progress = silent,
    force: bool = False,
) -> list[GeometryRow]:
    """Run the benchmark on the stereo motorcycle, and on further scenes that are at hand.

    Args:
        force: Whether the report of an earlier run may be replaced; what else is there is gone on with.
        opencv: Folder of OpenCV's sample data (graf, aloe); Debian's place for it is tried.
        hpatches: Folder of the HPatches sequences, used instead of the offline scenes.
    """
    root = new_folder(folder, FILES, force=force)
    dataset = read_hpatches_points(hpatches, points=points) if hpatches else offline_scenes(root, opencv, points)
    sources = [
        RowSource(lambda: RgbPatches(Baseline(longer=256)), {"RGB patches": None}),
        RowSource(lambda: Daisy(Baseline(name="DAISY", stride=3, longer=384)), {"DAISY (scikit-image)": None}),
        *(RowSource(lambda r=r: Extractor.from_recipe(r), {Reading.load(r).name: None}) for r in recipes),
    ]
    scored = score_rows(sources, dataset, PROTOCOL, root, progress)
    rows = [
        _row("SIFT, way of the nearest match", _sift(dataset)),
        *(_row(row.name, row.evaluation.records) for row in scored),
    ]
    overall = rows[0].result.overall
    scenes = ", ".join(p.name for p in dataset) if len(dataset) <= 12 else f"{len(dataset)} pairs"
    about = [str(PROTOCOL), f"{overall.points} points of {scenes}", *dataset.notes]
    data = [
        {"name": r.name, "median_error": r.median_error, "mean_error": r.mean_error, **r.result.to_dict()} for r in rows
    ]
    write_bench(root, "Photographs with known geometry", geometry_table(rows), about, data, force=True)
    return rows


def offline_scenes(root: Path, opencv: str | Path | None = None, points: int = 500) -> PairDataset:
    """The motorcycle, and OpenCV's graf and aloe where they are installed."""
    dataset = read_motorcycle(root / "scenes", points=points)
    try:
        more = read_opencv_pairs(opencv, points=points)
    except DatasetError:
        if opencv is not None:
            raise
        note = "without graf and aloe: OpenCV's sample data (Debian's opencv-doc) are not installed"
        return PairDataset("scenes", "all", dataset.root, dataset.pairs, (note,))
    return PairDataset("scenes", "all", dataset.root, (*dataset.pairs, *more.pairs))


def geometry_table(rows: Sequence[GeometryRow]) -> Table:
    """Header and rows."""
    header = ["features", *PROTOCOL.columns(), "median error", "mean error"]
    return header, [
        [
            row.name,
            *(row.result.cell(a) for a in PROTOCOL.alphas),
            f"{row.median_error:.1f} px",
            f"{row.mean_error:.1f} px",
        ]
        for row in rows
    ]


def _sift(dataset: PairDataset) -> list[PairRecord]:
    records = []
    for pair in dataset:
        found = sift_matches(pair.source, pair.target, np.array(pair.source_points))
        size = open_image(pair.target).size
        images = (str(pair.source), str(pair.target))
        records.append(
            record_pair(
                found, pair.target_points, target_size=size, name=pair.name, category=pair.category, images=images
            )
        )
    return records


def sift_matches(source: Path, target: Path, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where ``points`` (x, y) of the source lie in the target: each moves as the nearest SIFT match does.

    Matches choose each other and pass the ratio test (Lowe 2004).

    Raises:
        InvalidValueError: No keypoint was matched.
    """
    from skimage.feature import match_descriptors

    (one, first), (other, second) = (_keypoints(path) for path in (source, target))
    pairs = match_descriptors(first, second, max_ratio=0.8, cross_check=True)
    if len(pairs) == 0:
        raise InvalidValueError(f"SIFT finds no match between {source} and {target}.")
    one, other = one[pairs[:, 0]], other[pairs[:, 1]]
    nearest = ((points[:, None] - one[None]) ** 2).sum(2).argmin(1)
    return points + (other - one)[nearest]


def _keypoints(path: Path) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Keypoints (x, y) in original pixels, and their descriptors."""
    from skimage.feature import SIFT

    image = open_image(path)
    frame = FrameSpec("keep", longer=min(LONGER, max(image.size))).frame(image.size)
    sift = SIFT()
    sift.detect_and_extract(frame.pixels(image).add(1).div(2).mean(0).double().numpy())
    found = np.ascontiguousarray(np.asarray(sift.keypoints, dtype=np.float64)[:, ::-1])
    return frame.points_to_original(torch.from_numpy(found)).numpy(), np.asarray(sift.descriptors)


def _row(name: str, records: list[PairRecord]) -> GeometryRow:
    errors = np.concatenate([r.distances for r in records])
    # Three pairs are too few for a bootstrap over pictures.
    result = pck(records, PROTOCOL, replicates=1000 if len(records) >= 20 else 0)
    return GeometryRow(name, result, float(np.median(errors)), float(errors.mean()))
