"""Pairs of your own, in a CSV file: one row per point.

Columns ``source, target, source_x, source_y, target_x, target_y`` and, if wanted, ``category, left, top, right,
bottom`` (the target object's box), and ``source_width, source_height, target_width, target_height``, which tell whether
the points are of the stored or of the upright pixels where an EXIF tag turns a picture. Paths are relative to the file,
and lead to its own folder or below. Rows with the same two pictures are one pair.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.pairs import PairDataset, PointPair, as_pixel, as_points, beside, checked
from diffeat.errors import DatasetError, InvalidValueError, shown
from diffeat.files import read_rows

PAGE = "whoever wrote it"
COLUMNS = ("source", "target", "source_x", "source_y", "target_x", "target_y")
BOX = ("left", "top", "right", "bottom")


def read_csv_pairs(file: str | Path) -> PairDataset:
    """Read the pairs of a CSV file.

    Raises:
        DatasetError: The file is missing, lacks a column, or a row holds no number; names the line.
    """
    path = Path(file)
    groups: dict[tuple[str, str], list[tuple[int, dict[str, str]]]] = {}
    for line, row in _rows(path):
        groups.setdefault((row["source"], row["target"]), []).append((line, row))
    if not groups:
        raise DatasetError(f"{path} holds no row: there is no pair to read.")
    pairs = [_pair(path, names, rows) for names, rows in groups.items()]
    return PairDataset("csv", path.stem, path.parent, checked(pairs, path.name, PAGE, path.parent))


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        return read_rows(path, "list of pairs", COLUMNS)
    except InvalidValueError as error:
        raise DatasetError(str(error)) from error


def _pair(path: Path, names: tuple[str, str], rows: list[tuple[int, dict[str, str]]]) -> PointPair:
    def numbers(line: int, row: dict[str, str], *columns: str) -> tuple[float, ...]:
        for column in columns:
            try:
                as_pixel(row[column])
            except ValueError:
                raise DatasetError(
                    f"{path}, line {line}: {column} is {shown(row[column])}, which is not a number of pixels."
                ) from None
        return tuple(float(row[column]) for column in columns)

    line, first = rows[0]

    def optional(*columns: str) -> Any:
        return numbers(line, first, *columns) if all(first.get(c) for c in columns) else None

    try:
        source, target = (beside(path.parent, name) for name in names)
    except ValueError as error:
        raise DatasetError(f"{path}, line {line}: {error}.") from None
    return PointPair(
        f"{Path(names[0]).stem}-{Path(names[1]).stem}",
        source,
        target,
        as_points(numbers(n, row, "source_x", "source_y") for n, row in rows),
        as_points(numbers(n, row, "target_x", "target_y") for n, row in rows),
        first.get("category") or "",
        None,
        optional(*BOX),
        optional("source_width", "source_height"),
        optional("target_width", "target_height"),
    )


CARD = DatasetCard("csv", "pairs", read_csv_pairs, protocol="spair")
