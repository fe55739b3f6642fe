"""PF-Pascal: 1,351 pairs of 20 categories (Ham et al., arXiv:1703.07144).

Pairs come from the published ``{split}_pairs_pf_pascal.csv`` or ``{split}_pairs.csv`` (columns ``source_image``,
``target_image``, ``class`` as 1…20, and for the test split ``XA;YA;XB;YB``). Where a row has no coordinates, the
keypoints and boxes of ``Annotations/<category>/<picture>.mat`` are used: those that are labelled in both pictures.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.pairs import PairDataset, PointPair, as_points, checked, inside, parsed
from diffeat.datasets.spair import as_box
from diffeat.errors import DatasetError, UnknownNameError, did_you_mean
from diffeat.files import read_bytes, read_rows

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
    rows = parsed(found[0], NAME, PAGE, lambda p: read_rows(p, "list", ("source_image", "target_image", "class")))
    pairs = [
        parsed(found[0], NAME, PAGE, lambda _, i=i, row=row: _pair(i, row, folder), f"line {line}")
        for i, (line, row) in enumerate(rows)
    ]
    return PairDataset("pf-pascal", split, folder, checked(pairs, NAME, PAGE, folder))


def _pair(index: int, row: dict[str, str], folder: Path) -> PointPair:
    number = int(row["class"])
    if not 1 <= number <= len(CATEGORIES):
        raise ValueError(f"class {number} is none of 1 to {len(CATEGORIES)}")
    category = CATEGORIES[number - 1]
    one, other = (inside(folder / "JPEGImages", Path(row[k]).name) for k in ("source_image", "target_image"))
    boxes: list[Any] = [None, None]
    if row.get("XA"):
        a, b = (as_points(zip(row[f"X{s}"].split(";"), row[f"Y{s}"].split(";"), strict=True)) for s in "AB")
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

    def read(file: Path) -> tuple[list[Any], Any]:
        data = loadmat(BytesIO(read_bytes(file, "annotation")))
        points = [None if (xy != xy).any() else as_points([xy])[0] for xy in data["kps"]]
        return points, as_box(data["bbox"].ravel()[:4]) if "bbox" in data else None

    return parsed(path, NAME, PAGE, read)


CARD = DatasetCard("pf-pascal", "pairs", read_pf_pascal, ("train", "val", "test"), protocol="pf-pascal", page=PAGE)
