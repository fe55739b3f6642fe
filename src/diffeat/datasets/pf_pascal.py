"""PF-Pascal: 1,351 pairs of 20 categories (Ham et al., arXiv:1703.07144).

Pairs come from the published ``{split}_pairs_pf_pascal.csv`` or ``{split}_pairs.csv`` (columns ``source_image``,
``target_image``, ``class`` as 1…20, and for the test split ``XA;YA;XB;YB``). Where a row has no coordinates, the
keypoints and boxes of ``Annotations/<category>/<picture>.mat`` are used: those that are labelled in both pictures.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.pairs import PairDataset, PointPair, check_pictures, parsed
from diffeat.datasets.spair import as_box
from diffeat.errors import DatasetError, UnknownNameError, did_you_mean

NAME = "PF-Pascal"
PAGE = "https://www.di.ens.fr/willow/research/proposalflow/"
SPLITS = {"train": "trn", "trn": "trn", "val": "val", "test": "test"}
CATEGORIES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable"),
    *("dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def read_pf_pascal(root: str | Path, split: str = "test") -> PairDataset:
    """Read a split.

    Args:
        root: The folder ``PF-dataset-PASCAL`` with ``JPEGImages``, or the one that holds it.
        split: ``train``, ``val`` or ``test``.

    Raises:
        DatasetError: A file is missing or damaged; names it and the page.
        UnknownNameError: No such split.
    """
    folder = Path(root)
    if not (folder / "JPEGImages").is_dir() and (folder / "PF-dataset-PASCAL").is_dir():
        folder = folder / "PF-dataset-PASCAL"
    if split not in SPLITS:
        raise UnknownNameError(f"{NAME} has no split {split!r}. {did_you_mean(split, SPLITS)}")
    names = [f"{s}_pairs{end}.csv" for s in (SPLITS[split], split) for end in ("", "_pf_pascal")]
    found = [p for base in (folder, folder.parent) for n in names if (p := base / n).is_file()]
    if not found:
        raise DatasetError(f"{NAME} needs {folder / names[0]} (or {names[1]}), which does not exist. See {PAGE}")
    rows = parsed(found[0], NAME, PAGE, _rows)
    pairs = tuple(
        parsed(found[0], NAME, PAGE, lambda _, i=i, row=row: _pair(i, row, folder)) for i, row in enumerate(rows)
    )
    check_pictures(pairs, NAME, PAGE, folder)
    return PairDataset("pf-pascal", split, folder, pairs)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def _pair(index: int, row: dict[str, str], folder: Path) -> PointPair:
    category = CATEGORIES[int(row["class"]) - 1]
    one, other = (folder / "JPEGImages" / Path(row[k]).name for k in ("source_image", "target_image"))
    boxes: list[Any] = [None, None]
    if row.get("XA"):
        a, b = (
            [(float(x), float(y)) for x, y in zip(row[f"X{s}"].split(";"), row[f"Y{s}"].split(";"), strict=True)]
            for s in "AB"
        )
    else:
        mats = [_annotation(folder, category, path) for path in (one, other)]
        both = [i for i, pq in enumerate(zip(mats[0][0], mats[1][0], strict=True)) if all(p is not None for p in pq)]
        a, b = ([points[i] for i in both] for points, _ in mats)
        boxes = [box for _, box in mats]
    return PointPair(
        f"{index:06d}-{one.stem}-{other.stem}:{category}", one, other, tuple(a), tuple(b), category, *boxes
    )


def _annotation(folder: Path, category: str, picture: Path) -> tuple[list[Any], Any]:
    """Keypoints (``None`` where not labelled) and box of a picture."""
    from scipy.io import loadmat

    path = folder / "Annotations" / category / f"{picture.stem}.mat"
    data = parsed(path, NAME, PAGE, lambda p: loadmat(str(p)))
    points = [None if (xy != xy).any() else (float(xy[0]), float(xy[1])) for xy in data["kps"]]
    box = as_box(data["bbox"].ravel()[:4]) if "bbox" in data else None
    return points, box


CARD = DatasetCard("pf-pascal", "pairs", read_pf_pascal, ("train", "val", "test"), protocol="pf-pascal", page=PAGE)
