"""A measurement on disk: numbers as JSON, redundancy and thumbnails as safetensors; read back for a later run."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from diffeat.storage.atomic import StagedFile
from diffeat.studies.selection.meter import Measured
from diffeat.studies.selection.properties import Measurement, Property

_NUMBERS, _TENSORS = "properties.json", "properties.safetensors"


def save_measurement(measurement: Measurement, folder: Path, key: str) -> None:
    """Write it; ``key`` says what it was made of."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"thumbnail/{id}": torch.from_numpy(picture) for id, picture in measurement.thumbnails.items()}
    tensors["picture"] = torch.from_numpy(np.asarray(measurement.picture).copy())
    tensors["redundancy"] = measurement.redundancy
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / _TENSORS)
    data = {
        "key": key,
        "settings": measurement.settings,
        "skipped": measurement.skipped,
        "properties": [asdict(p) for p in measurement.properties],
    }
    # last: its presence says that all is there
    StagedFile(folder / _NUMBERS, json.dumps(data, indent=1).encode()).commit()


def load_measurement(folder: Path, key: str) -> Measurement | None:
    """What :func:`save_measurement` wrote under the same key, or ``None``."""
    path = folder / _NUMBERS
    if not path.is_file():
        return None
    data = json.loads(path.read_text(encoding="utf-8"))
    if data["key"] != key:
        return None
    tensors = load_file(folder / _TENSORS)
    return Measurement(
        properties=tuple(
            Property(
                **item
                | {
                    "measured": Measured(**item["measured"]),
                    "grid": tuple(item["grid"]),
                    "aliases": tuple(item["aliases"]),
                }
            )
            for item in data["properties"]
        ),
        redundancy=tensors["redundancy"],
        skipped=data["skipped"],
        thumbnails={n.removeprefix("thumbnail/"): t.numpy() for n, t in tensors.items() if n.startswith("thumbnail/")},
        picture=Image.fromarray(tensors["picture"].numpy()),
        settings=data["settings"],
    )
