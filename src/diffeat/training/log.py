"""Training curves as a CSV file: a row for every step, none lost and none twice when a run is stopped and goes on."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path


class Log:
    """Rows of a training, on disk at every :meth:`flush`.

    Args:
        file: The CSV file; rows after ``step`` of an earlier run are dropped.
        columns: Names; the first is ``step``.
    """

    def __init__(self, file: Path, columns: Sequence[str], step: int) -> None:
        self._file, self._columns = file, list(columns)
        self._rows: list[dict[str, str]] = []
        kept = [row for row in read_log(file) if int(row["step"]) <= step] if file.is_file() else []
        with file.open("w", newline="", encoding="utf-8") as handle:
            table = csv.DictWriter(handle, self._columns, extrasaction="ignore")
            table.writeheader()
            table.writerows(kept)

    def write(self, values: Mapping[str, float | str | None]) -> None:
        """One step; a column without a value stays empty."""
        self._rows.append(
            {k: f"{v:.7g}" if isinstance(v, float) else str(v) for k, v in values.items() if v is not None}
        )

    def flush(self) -> None:
        """Everything to disk."""
        with self._file.open("a", newline="", encoding="utf-8") as handle:
            csv.DictWriter(handle, self._columns).writerows(self._rows)
        self._rows = []


def read_log(file: Path) -> list[dict[str, str]]:
    """The rows of a log."""
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))
