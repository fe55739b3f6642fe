"""Training curves as a CSV file: a row for every step, none lost and none twice when a run is stopped and goes on."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from diffeat.storage.atomic import StagedFile


class Log:
    """Rows of a training, on disk at every :meth:`flush`, all or as they were.

    Args:
        file: The CSV file; rows after ``step`` of an earlier run are dropped.
        columns: Names; the first is ``step``.
    """

    def __init__(self, file: Path, columns: Sequence[str], step: int) -> None:
        self._file, self._text = file, io.StringIO(newline="")
        self._table = csv.DictWriter(self._text, columns, extrasaction="ignore")
        self._table.writeheader()
        self._table.writerows(row for row in (read_log(file) if file.is_file() else ()) if int(row["step"]) <= step)
        self.flush()

    def write(self, values: Mapping[str, float | str | None]) -> None:
        """One step; a column without a value stays empty."""
        self._table.writerow(
            {k: f"{v:.7g}" if isinstance(v, float) else str(v) for k, v in values.items() if v is not None}
        )

    def flush(self) -> None:
        """Everything to disk."""
        StagedFile(self._file, self._text.getvalue().encode()).commit()


def read_log(file: Path) -> list[dict[str, str]]:
    """The rows of a log."""
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))
