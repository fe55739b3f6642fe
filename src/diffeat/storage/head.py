"""``store.json``: what made the features of a store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffeat.errors import StoreError
from diffeat.storage.atomic import StagedFile
from diffeat.storage.index import FORMAT_VERSION, check_version

HEAD_FILE = "store.json"


@dataclass(frozen=True)
class Head:
    """The recipe's content and hash, the dtype of the values, and a fingerprint of the weights ("" unknown)."""

    recipe: dict[str, Any]
    recipe_hash: str
    dtype: str
    weights: str = ""

    def write(self, folder: Path) -> None:
        """Write it, atomically."""
        data = {"format": "diffeat feature store", "version": FORMAT_VERSION, **asdict(self)}
        text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        StagedFile(folder / HEAD_FILE, text.encode()).commit()

    @classmethod
    def read(cls, folder: Path) -> Head:
        """Read it.

        Raises:
            StoreError: The folder is no store, damaged, or of a newer format.
        """
        path = folder / HEAD_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            check_version(data["version"], path)
            return cls(data["recipe"], data["recipe_hash"], data["dtype"], data.get("weights", ""))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreError(f"{folder} is not a feature store: it has no {HEAD_FILE}.") from error
        except OSError as error:
            raise StoreError(f"{path} cannot be read ({error.strerror}).") from error
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} is damaged, or not of a feature store ({error!r}).") from error

    def require(self, wanted: Head, folder: Path) -> None:
        """Raise StoreError with the fields that differ, unless ``wanted`` gives the same features."""
        differences = []
        if self.recipe_hash != wanted.recipe_hash:
            hashes = f"hash {self.recipe_hash[:12]} there, {wanted.recipe_hash[:12]} here"
            differences = _differences(self.recipe, wanted.recipe) or [hashes]
        if self.dtype != wanted.dtype:
            differences.append(f"dtype is {self.dtype} there, {wanted.dtype} here")
        if self.weights and wanted.weights and self.weights != wanted.weights:
            differences.append(
                f"the model's weights, or their precision, are others (fingerprint {self.weights} there, "
                f"{wanted.weights} here)"
            )
        if differences:
            raise StoreError(
                f"The store {folder} was made by another recipe: {'; '.join(differences)}. "
                "Write to another folder, or use the store's own recipe."
            )


def _differences(there: Any, here: Any, at: str = "") -> list[str]:
    """The fields in which two recipes differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            difference
            for name in sorted({*there, *here})
            for difference in _differences(there.get(name), here.get(name), f"{at}.{name}" if at else str(name))
        ]
    return [] if there == here else [f"{at} is {there!r} there, {here!r} here"]
