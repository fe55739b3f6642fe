"""Photographs with known geometry: points within so many pixels, and the end-point error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffeat.bench.rows import RowSource
from diffeat.bench.sift import sift_matches
from diffeat.datasets.geometric import read_hpatches, read_motorcycle, read_opencv_pairs
from diffeat.datasets.pairs import PairDataset
from diffeat.errors import DatasetError
from diffeat.evaluation.features import feature_folder
from diffeat.extraction import Baseline, Extractor, Reading
from diffeat.extraction.baselines import Daisy, RgbPatches
from diffeat.geometry import open_image
from diffeat.progress import Progress, silent
from diffeat.report.correspondence import interval_text
from diffeat.report.page import Page, markdown_table
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.correspondence.keypoints import PairRecord, PckResult, pck, record_pair
from diffeat.tasks.correspondence.protocol import Protocol, get_protocol

PROTOCOL: Protocol = get_protocol("geometry").replace(name="geometry", alphas=(2, 4, 8, 16))


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
) -> list[GeometryRow]:
    """Run the benchmark on the stereo motorcycle, and on further scenes that are at hand.

    Args:
        folder: Holds the features and the report.
        recipes: Presets or YAML files that give one map.
        opencv: Folder of OpenCV's sample data (graf, aloe); Debian's place for it is tried.
        hpatches: Folder of the HPatches sequences, used instead of the offline scenes.
        points: Per pair.
    """
    root = Path(folder)
    dataset = read_hpatches(hpatches, points=points) if hpatches else offline_scenes(root, opencv, points)
    rows = [_row("SIFT, way of the nearest match", _sift(dataset))]
    sources = [
        RowSource(lambda: RgbPatches(Baseline(longer=256)), {"RGB patches": None}),
        RowSource(lambda: Daisy(Baseline(name="DAISY", stride=3, longer=384)), {"DAISY (scikit-image)": None}),
        *(RowSource(lambda r=r: Extractor.from_recipe(r), {Reading.load(r).name: None}) for r in recipes),
    ]
    for source in sources:
        extractor = source.make()
        for name in source.rows:
            store = feature_folder(root, extractor)
            rows.append(_row(name, evaluate(dataset, extractor, PROTOCOL, store=store, progress=progress).records))
    _write(root, dataset, rows)
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


def geometry_table(rows: Sequence[GeometryRow]) -> tuple[list[str], list[list[str]]]:
    """Header and rows."""
    header = ["features", *(f"≤ {a:g} px" for a in PROTOCOL.alphas), "median error", "mean error"]
    return header, [
        [
            row.name,
            *(interval_text(row.result, a) for a in PROTOCOL.alphas),
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


def _row(name: str, records: list[PairRecord]) -> GeometryRow:
    errors = np.concatenate([r.distances for r in records])
    # Three pairs are too few for a bootstrap over pictures.
    result = pck(records, PROTOCOL, replicates=1000 if len(records) >= 20 else 0)
    return GeometryRow(name, result, float(np.median(errors)), float(errors.mean()))


def _write(root: Path, dataset: PairDataset, rows: Sequence[GeometryRow]) -> None:
    title = "Photographs with known geometry"
    header, body = geometry_table(rows)
    overall = rows[0].result.overall
    scenes = ", ".join(p.name for p in dataset) if len(dataset) <= 12 else f"{len(dataset)} pairs"
    about = [str(PROTOCOL), f"{overall.points} points of {scenes}", *dataset.notes]
    data = [
        {"name": r.name, "median_error": r.median_error, "mean_error": r.mean_error, **r.result.to_dict()} for r in rows
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "bench.json").write_text(json.dumps({"title": title, "rows": data}, indent=1), encoding="utf-8")
    lines = "\n".join(f"- {line}" for line in about)
    (root / "bench.md").write_text(f"# {title}\n\n{markdown_table(header, body)}\n\n{lines}\n", encoding="utf-8")
    page = Page(title)
    page.table(header, body)
    page.bullets(about)
    (root / "bench.html").write_text(page.html(), encoding="utf-8")
