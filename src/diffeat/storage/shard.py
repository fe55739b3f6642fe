"""One shard: the maps of some pictures in one safetensors file.

Tensors are named ``<row>/<activation>`` (and ``<row>/<activation>/<extra>``, see :mod:`diffeat.storage.formats`), row
being the picture's place in the shard. The same features give the same bytes: safetensors sorts the tensors, and all
metadata are one JSON text.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import safetensors
import torch
from torch import Tensor

from diffeat.errors import InvalidValueError, StoreError
from diffeat.features.feature_map import FeatureMap
from diffeat.storage.atomic import DamagedError, opened
from diffeat.storage.formats import FORMATS, Format, encode
from diffeat.storage.layout import Chunks, sha256_of
from diffeat.storage.rows import Row
from diffeat.storage.url import Place, Url

Window = tuple[int, int, int, int]
_KINDS = {torch.int8: "I8", torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}  # as they are sorted
_TYPES = {kind: dtype for dtype, kind in _KINDS.items()}
_MOST_HEADER = 100 << 20  # as safetensors
#: The maps of a picture: their rows, with the tensors on disk of each.
Maps = Sequence[tuple[Row, Mapping[str, Tensor]]]


@dataclass(frozen=True)
class Sealed:
    """A shard ready to be written: the SHA-256 of its bytes; these, which are the memory of the maps; and its rows."""

    shard: str
    chunks: Chunks
    rows: tuple[Row, ...]


def encoded(feature: FeatureMap, text: str, dtype: str, stamp: str = "") -> Maps:
    """The maps of a picture as they lie on disk; their place is left open, and they are of the first generation."""
    picture = feature.image or feature.digest
    if not feature.activations:
        raise InvalidValueError(f"{picture} has no maps to store.")
    storable(feature.image, text)
    maps = []
    for name, values in feature.activations.items():
        where = f"{picture}: {name}"
        if values.ndim != 3 or not values.is_floating_point():
            raise InvalidValueError(f"{where} must be a float map (C, h, w), got {values.dtype} {tuple(values.shape)}.")
        stored, (low, high) = encode(values, FORMATS[dtype], where)
        row = Row(
            image=feature.image,
            digest=feature.digest,
            text=text,
            generation=0,
            shard="",
            position=0,
            size=0,
            row=0,
            activation=name,
            channels=values.shape[0],
            height=values.shape[1],
            width=values.shape[2],
            dtype=dtype,
            minimum=low,
            maximum=high,
            abs_max=max(abs(low), abs(high)),
            crc=_crc(stored),
            frame=_json(feature.frame.to_dict()),
            provenance=_json(feature.provenance),
            stamp=stamp,
        )
        maps.append((row, stored))
    return maps


def storable(*texts: str) -> None:
    """Raise InvalidValueError for a name or text that is not Unicode: an index could not hold it."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InvalidValueError(f"{text!r} is not Unicode, so a store cannot hold it. Rename it.") from None


def seal(pictures: Sequence[Maps], dtype: str, position: int) -> Sealed:
    """A shard of pictures, at a place in the order of the shards."""
    tensors = {
        _tensor_name(number, row.activation, part): tensor
        for number, maps in enumerate(pictures)
        for row, stored in maps
        for part, tensor in stored.items()
    }
    identities = [[row.image, row.digest, row.text] for row in (maps[0][0] for maps in pictures)]
    chunks = safetensors_bytes(tensors, {"diffeat": _json({"dtype": dtype, "pictures": identities})})
    shard, size = sha256_of(chunks), sum(map(len, chunks))
    rows = (
        replace(row, shard=shard, position=position, size=size, row=number)
        for number, maps in enumerate(pictures)
        for row, _ in maps
    )
    return Sealed(shard, chunks, tuple(rows))


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> list[bytes | memoryview]:
    """The bytes of a safetensors file, as ``safetensors.torch.save`` gives them, without a copy."""
    header: dict[str, Any] = {"__metadata__": metadata}
    chunks: list[bytes | memoryview] = []
    end = 0
    kinds = list(_KINDS)
    for name, tensor in sorted(tensors.items(), key=lambda item: (-kinds.index(item[1].dtype), item[0])):
        start, end = end, end + tensor.nbytes
        kind, shape = _KINDS[tensor.dtype], list(tensor.shape)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
        chunks.append(_bytes(tensor))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return [len(text).to_bytes(8, "little") + text, *chunks]


class ShardReader:
    """An open shard; the file is mapped, only what is asked for is read.

    Args:
        size: The bytes that the file must have.

    Raises:
        StoreError: The file is missing, truncated or damaged, or no regular file.
    """

    def __init__(self, path: Place, size: int) -> None:
        self.path = path
        try:
            with opened(path) as file:
                if (here := file.seek(0, os.SEEK_END)) != size:
                    raise self._damaged(f"it has {here} bytes instead of {size}")
                remote = isinstance(path, Url)
                self._file: Any = _Remote(path, size) if remote else safetensors.safe_open(str(path), framework="pt")
        except (OSError, safetensors.SafetensorError) as error:
            raise self._damaged(str(error)) from error

    def stored(self, row: Row) -> dict[str, Tensor]:
        """The tensors on disk of a map; DamagedError if they are not those that were written."""
        try:
            parts = ("", *self._format(row).extras)
            tensors = {part: self._file.get_tensor(_tensor_name(row.row, row.activation, part)) for part in parts}
        except safetensors.SafetensorError as error:
            raise self._damaged(str(error)) from error
        if _crc(tensors) != row.crc or tuple(tensors[""].shape) != (row.channels, row.height, row.width):
            raise self._damaged(f"{row.image}: {row.activation} has changed since it was written")
        return tensors

    def read(self, row: Row, window: Window | None = None) -> Tensor:
        """One map ``(C, h, w)``, checked, or the cells (top, left, height, width) of it, unchecked."""
        if window is None:
            return self._format(row).decode(self.stored(row))
        format, name = self._format(row), _tensor_name(row.row, row.activation, "")
        top, left, height, width = _check_window(window, row)
        try:
            cells = self._file.get_slice(name)[:, top : top + height, left : left + width]
            extras = {p: self._file.get_tensor(_tensor_name(row.row, row.activation, p)) for p in format.extras}
        except safetensors.SafetensorError as error:
            raise self._damaged(str(error)) from error
        return format.decode({"": cells, **extras})

    def _format(self, row: Row) -> Format:
        if row.dtype not in FORMATS:
            raise StoreError(f"The index tells an unknown dtype of {row.image}: {row.dtype!r}.")
        return FORMATS[row.dtype]

    def _damaged(self, reason: str) -> DamagedError:
        return DamagedError(
            f"{self.path} is missing, truncated or damaged ({reason}). Run the same extraction again: only what is "
            "lost is computed anew."
        )


class _Remote:
    """What ``safetensors.safe_open`` is to a file, for an object: what is asked for is fetched."""

    def __init__(self, file: Url, size: int) -> None:
        self._file = file
        length = int.from_bytes(file.range(0, 8), "little")
        self._start = 8 + length
        if length > min(size - 8, _MOST_HEADER):
            raise safetensors.SafetensorError("its header is cut short")
        try:
            self._tensors = json.loads(file.range(8, self._start))
        except (ValueError, RecursionError) as error:
            raise safetensors.SafetensorError(f"its header is {type(error).__name__}") from error

    def get_tensor(self, name: str) -> Tensor:
        try:
            told = self._tensors[name]
            start, end = (self._start + int(offset) for offset in told["data_offsets"])
            return torch.frombuffer(bytearray(self._file.range(start, end)), dtype=_TYPES[told["dtype"]]).reshape(
                told["shape"]
            )
        except (ValueError, KeyError, TypeError, RuntimeError, OSError) as error:
            raise safetensors.SafetensorError(f"{name}: {type(error).__name__}") from error

    def get_slice(self, name: str) -> Tensor:
        return self.get_tensor(name)


def _crc(stored: Mapping[str, Tensor]) -> int:
    crc = 0
    for part in sorted(stored):
        crc = zlib.crc32(_bytes(stored[part]), crc)
    return crc


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


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


def _json(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))
