"""``store.json``: what made the features of a store."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from typing import Any

from diffeat.errors import StoreError, shown
from diffeat.storage.atomic import DamagedError, StagedFile, is_temporary, opened
from diffeat.storage.formats import FORMATS
from diffeat.storage.layout import HEAD_FILE, listed
from diffeat.storage.url import Place, Url

FORMAT_VERSION = 2
_MOST_BYTES = 16 << 20


@dataclass(frozen=True)
class Head:
    """What a store is of.

    Attributes:
        weights: Fingerprint of the model; "" unknown.
        epoch: How often the store was compacted.
        parts: How many files of the kind ``old`` the last compacting left.
    """

    recipe: dict[str, Any]
    recipe_hash: str
    dtype: str
    weights: str = ""
    epoch: int = 0
    parts: int = 0

    def to_bytes(self) -> bytes:
        """The file, with a checksum of the rest: the same content gives the same bytes."""
        data = json.loads(_json({"format": "diffeat feature store", "version": FORMAT_VERSION, **asdict(self)}))
        data["checksum"] = hashlib.sha256(_json(data).encode()).hexdigest()
        return f"{_json(data)}\n".encode()

    def write(self, folder: Place, *, new: bool = False) -> None:
        """Write it, atomically; ``new``: where there is none, else FileExistsError in an object store."""
        StagedFile(folder / HEAD_FILE, self.to_bytes(), new=new).commit()

    @classmethod
    def read(cls, folder: Place) -> Head:
        """Read it.

        Raises:
            StoreError: The folder is no store, or damaged, or of another format.
        """
        path = folder / HEAD_FILE
        try:
            with opened(path) as file:
                written = file.read(_MOST_BYTES)
        except DamagedError:
            raise StoreError(f"{folder} is not a feature store: {_without_head(folder)}") from None
        except StoreError as error:
            if not isinstance(folder, Url) and folder.exists() and not folder.is_dir():
                raise StoreError(f"{folder} is not a feature store: it is a file.") from None
            raise error
        try:
            data = json.loads(written)
            check_version(data["version"], path)
            head = cls(**{field.name: data[field.name] for field in fields(cls)})
            if head.to_bytes() == written and head._is_valid():
                return head
        except (ValueError, KeyError, TypeError, RecursionError):
            pass
        raise StoreError(
            f"{path} is damaged: it is not what diffeat wrote. Put it back from a copy, or extract into another folder."
        )

    def _is_valid(self) -> bool:
        texts = (self.recipe_hash, self.dtype, self.weights)
        return (
            isinstance(self.recipe, dict)
            and all(isinstance(text, str) for text in texts)
            and self.dtype in FORMATS
            and all(type(number) is int and number >= 0 for number in (self.epoch, self.parts))
        )

    def differences(self, wanted: Head) -> list[str]:
        """The fields in which another head differs, in words; none where it gives the same features."""
        differences = []
        if self.recipe_hash != wanted.recipe_hash:
            hashes = f"hash {self.recipe_hash[:12]} there, {wanted.recipe_hash[:12]} here"
            differences = _differences(self.recipe, wanted.recipe) or [hashes]
        if self.dtype != wanted.dtype:
            differences.append(f"dtype is {self.dtype} there, {wanted.dtype} here")
        if self.weights and wanted.weights and self.weights != wanted.weights:
            differences.append(
                f"the model, its weights or their precision, are others (fingerprint {self.weights[:16]} there, "
                f"{wanted.weights[:16]} here)"
            )
        return differences

    def require(self, wanted: Head, folder: Place) -> None:
        """Raise StoreError with the fields that differ, unless ``wanted`` gives the same features."""
        if differences := self.differences(wanted):
            raise StoreError(
                f"The store {folder} was made by another recipe: {'; '.join(differences)}. "
                "Write to another folder, or use the store's own recipe."
            )


def _without_head(folder: Place) -> str:
    """What a folder without a head is, in words."""
    if not any(listed(folder / name) for name in ("shards", "index")):
        return f"it has no {HEAD_FILE}."
    return (
        f"it holds shards and an index, and its {HEAD_FILE}, which tells what they were made by, is lost. Put it back "
        "from a copy, or extract into another folder; nothing here was changed."
    )


def check_vacant(folder: Place) -> None:
    """Raise StoreError unless a store can be made in a folder: a new or an empty one."""
    if isinstance(folder, Url):
        if (folder / HEAD_FILE).exists():
            raise StoreError(f"{folder} is a feature store already. Use open or open_or_create.")
        if held := listed(folder):
            raise StoreError(f"{folder} is not a feature store and not empty (it holds {held[0]!r}). Choose another.")
        return
    place = folder
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise StoreError(f"{place} is a file. Choose another name for the store.")
    held = [name for name in listed(folder) if not is_temporary(name)]
    if os.path.isfile(folder / HEAD_FILE):
        raise StoreError(f"{folder} is a feature store already. Use open or open_or_create.")
    if HEAD_FILE in held:
        raise StoreError(f"{folder / HEAD_FILE} is not a regular file. Move it away, or choose another folder.")
    if {"shards", "index"} & set(held):
        raise StoreError(f"{folder} is not a feature store: {_without_head(folder)}")
    if held:
        raise StoreError(
            f"{folder} is not a feature store and not empty (it holds {held[0]!r}). Choose a new or empty folder."
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise StoreError(f"Cannot write to the store {folder}: no permission to write there. Choose another folder.")


def check_version(version: object, path: Place) -> None:
    """Refuse the formats of other versions of diffeat."""
    if type(version) is not int:
        raise ValueError(version)
    if version != FORMAT_VERSION:
        fix = "Update diffeat." if version > FORMAT_VERSION else "Extract again, into another folder."
        raise StoreError(
            f"{path} has format version {shown(version)}; this diffeat reads version {FORMAT_VERSION}. {fix}"
        )


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, sort_keys=True)


def _differences(there: Any, here: Any, at: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            difference
            for name in sorted({*there, *here})
            for difference in _differences(there.get(name), here.get(name), f"{at}.{name}" if at else str(name))
        ]
    return [] if there == here else [f"{at} is {shown(there)} there, {shown(here)} here"]
