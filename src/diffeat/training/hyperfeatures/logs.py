"""Training curves as a CSV file, and for TensorBoard if wanted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from diffeat.errors import InvalidValueError

COLUMNS = ("step", "pair", "loss", "keypoint", "dense", "window", "seconds", "validation")


class TrainingLog:
    """Writes a row for every training step.

    Args:
        file: The CSV file; rows after ``step`` of an earlier run are dropped.
        step: How many steps are done already.
        tensorboard: Folder of TensorBoard events, or None.

    Raises:
        InvalidValueError: TensorBoard is wanted and not installed.
    """

    def __init__(self, file: Path, step: int, tensorboard: Path | None = None) -> None:
        kept = [row for row in read_log(file) if int(row["step"]) <= step] if file.is_file() else []
        self._handle = file.open("w", newline="", encoding="utf-8")
        self._csv: csv.DictWriter[str] = csv.DictWriter(self._handle, list(COLUMNS))
        self._csv.writeheader()
        self._csv.writerows(kept)
        self._events: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise InvalidValueError(
                    "TensorBoard logs need the package tensorboard: pip install 'diffeat[train]'. log.csv is written "
                    "without it."
                ) from None
            self._events = SummaryWriter(str(tensorboard), purge_step=step + 1)

    def write(self, step: int, pair: str, values: dict[str, float], validation: float | None) -> None:
        """One step: loss and its parts, seconds, and PCK on the validation pairs where it was measured."""
        row: dict[str, Any] = {"step": step, "pair": pair, **{k: f"{v:.7g}" for k, v in values.items()}}
        self._csv.writerow(row if validation is None else {**row, "validation": f"{validation:.4f}"})
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
            if validation is not None:
                self._events.add_scalar("validation", validation, step)
        if validation is not None:
            self.flush()

    def flush(self) -> None:
        """Everything to disk."""
        self._handle.flush()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """End the files."""
        self._handle.close()
        if self._events is not None:
            self._events.close()


def read_log(file: Path) -> list[dict[str, str]]:
    """The rows of a log."""
    with file.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))
