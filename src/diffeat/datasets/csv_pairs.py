"""Pairs of your own, in a CSV file: one row per point.

Columns ``source, target, source_x, source_y, target_x, target_y`` and, if wanted, ``category, left, top, right,
bottom`` (the target object's box). Paths are relative to the file. Rows with the same two pictures are one pair.
"""

from __future__ import annotations

import csv
from pathlib import Path

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.pairs import Box, PairDataset, PointPair, check_pictures
from diffeat.errors import DatasetError, did_you_mean

COLUMNS = ("source", "target", "source_x", "source_y", "target_x", "target_y")
BOX = ("left", "top", "right", "bottom")


def read_csv_pairs(file: str | Path) -> PairDataset:
    """Read the pairs of a CSV file.

    Raises:
        DatasetError: The file is missing, lacks a column, or a row holds no number; names the line.
    """
    path = Path(file)
    if not path.is_file():
        raise DatasetError(f"There is no file {path}. A CSV with the columns {', '.join(COLUMNS)} is wanted.")
    groups: dict[tuple[str, str], list[tuple[int, dict[str, str]]]] = {}
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        columns = reader.fieldnames or []
        for column in COLUMNS:
            if column not in columns:
                raise DatasetError(
                    f"{path} has no column {column!r}; it has {', '.join(columns) or 'none'}. "
                    f"{did_you_mean(column, columns)}".rstrip()
                )
        for row in reader:
            groups.setdefault((row["source"], row["target"]), []).append((reader.line_num, row))
    if not groups:
        raise DatasetError(f"{path} holds no row: there is no pair to read.")
    pairs = tuple(_pair(path, names, rows) for names, rows in groups.items())
    check_pictures(pairs, path.name, f"the author of {path.name}", path.parent)
    return PairDataset("csv", path.stem, path.parent, pairs)


def _pair(path: Path, names: tuple[str, str], rows: list[tuple[int, dict[str, str]]]) -> PointPair:
    def number(line: int, row: dict[str, str], column: str) -> float:
        try:
            return float(row[column])
        except (TypeError, ValueError):
            raise DatasetError(f"{path}, line {line}: {column} is {row[column]!r}, which is not a number.") from None

    points = [[(number(n, r, f"{s}_x"), number(n, r, f"{s}_y")) for n, r in rows] for s in ("source", "target")]
    line, first = rows[0]
    box: Box | None = None
    if all(first.get(c) for c in BOX):
        left, top, right, bottom = (number(line, first, c) for c in BOX)
        box = (left, top, right, bottom)
    return PointPair(
        f"{Path(names[0]).stem}-{Path(names[1]).stem}",
        path.parent / names[0],
        path.parent / names[1],
        tuple(points[0]),
        tuple(points[1]),
        first.get("category") or "",
        None,
        box,
    )


CARD = DatasetCard("csv", "pairs", read_csv_pairs, protocol="spair")
