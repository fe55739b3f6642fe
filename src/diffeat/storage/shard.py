"""One shard: the maps of some pictures in one safetensors file.

Tensors are named ``<row>/<activation>`` (and ``<row>/<activation>/<extra>``, see :mod:`diffeat.storage.formats`), row
being the picture's place in the shard. The same features give the same bytes: safetensors sorts the tensors, and all
metadata are one JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from diffeat.errors import InvalidValueError, StoreError
from diffeat.features.feature_map import FeatureMap
from diffeat.storage.formats import FORMATS, encode
from diffeat.storage.index import Row

Window = tuple[int, int, int, int]


def pack(features: Sequence[FeatureMap], dtype: str, shard: str, position: int) -> tuple[bytes, list[Row]]:
    """The bytes of a shard and its rows of the index."""
    tensors: dict[str, Tensor] = {}
    rows: list[Row] = []
    for number, feature in enumerate(features):
        if not feature.activations:
            raise InvalidValueError(f"{feature.image or feature.digest} has no maps to store.")
        for name, values in feature.activations.items():
            where = f"{feature.image or feature.digest}: {name}"
            if values.ndim != 3 or not values.is_floating_point():
                raise InvalidValueError(
                    f"{where} must be a float map (C, h, w), got {values.dtype} {tuple(values.shape)}."
                )
            stored = encode(values, FORMATS[dtype], where)
            tensors |= {_tensor_name(number, name, part): tensor for part, tensor in stored.items()}
            kept = FORMATS[dtype].decode(stored)
            low, high = (kept.min().item(), kept.max().item()) if kept.numel() else (0.0, 0.0)
            rows.append(
                Row(
                    shard=shard,
                    position=position,
                    row=number,
                    key=feature.digest,
                    image=feature.image,
                    activation=name,
                    channels=values.shape[0],
                    height=values.shape[1],
                    width=values.shape[2],
                    dtype=dtype,
                    minimum=low,
                    maximum=high,
                    abs_max=max(abs(low), abs(high)),
                    frame=_json(feature.frame.to_dict()),
                    provenance=_json(feature.provenance),
                )
            )
    metadata = {"diffeat": _json({"dtype": dtype, "shard": shard, "keys": [f.digest for f in features]})}
    return safetensors.torch.save(tensors, metadata), rows


class ShardReader:
    """An open shard; the file is mapped, only what is asked for is read.

    Raises:
        StoreError: The file is missing, truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: Any = safetensors.safe_open(str(path), framework="pt")
        except (OSError, safetensors.SafetensorError) as error:
            raise _damaged(path, error) from error

    def read(self, row: Row, window: Window | None = None) -> Tensor:
        """One map ``(C, h, w)``, or the cells (top, left, height, width) of it."""
        format, name = FORMATS[row.dtype], _tensor_name(row.row, row.activation, "")
        try:
            if window is None:
                stored = self._file.get_tensor(name)
            else:
                top, left, height, width = _check_window(window, row)
                stored = self._file.get_slice(name)[:, top : top + height, left : left + width]
            extras = {p: self._file.get_tensor(_tensor_name(row.row, row.activation, p)) for p in format.extras}
        except safetensors.SafetensorError as error:
            raise _damaged(self.path, error) from error
        return format.decode({"": stored, **extras})


def _tensor_name(row: int, activation: str, part: str) -> str:
    return f"{row}/{activation}/{part}" if part else f"{row}/{activation}"


def _check_window(window: Window, row: Row) -> Window:
    top, left, height, width = window
    if min(top, left) < 0 or min(height, width) < 1 or top + height > row.height or left + width > row.width:
        raise InvalidValueError(
            f"The window (top, left, height, width) = {tuple(window)} is not inside {row.activation}, "
            f"a grid of {row.height}×{row.width} cells."
        )
    return window


def _damaged(path: Path, error: Exception) -> StoreError:
    return StoreError(
        f"{path} is missing, truncated or damaged ({error}). Delete it and run the extraction again: "
        "only this shard is computed anew."
    )


def _json(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
