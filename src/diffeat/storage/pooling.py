"""Pooled features of a store: the mean of a map over its cells, at unit length, of every picture.

Pooling reads every map once. What is pooled rests in ``pooled/<sha256>.arrow`` of the store: files that are complete or
absent, never changed, and name the shards and rows that they are of. Shards never change either, so a vector is right
for as long as its shard counts, whoever writes meanwhile; several who pool at once do each other no harm. A stopped run
goes on where it was. Nothing else of the store is touched, and nothing needs these files: ``diffeat store compact``
removes those whose shards are gone, and all of them may be deleted.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from diffeat.errors import StoreError, clipped
from diffeat.progress import Progress
from diffeat.storage.atomic import is_regular
from diffeat.storage.dataset import Stored
from diffeat.storage.head import FORMAT_VERSION
from diffeat.storage.layout import POOLED, listed, place, sha256_of
from diffeat.storage.url import Place, Url

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = re.compile(r"[0-9a-f]{64}\.arrow")
_PART_BYTES = 64 << 20
_ROWS = 1 << 32  # more than a shard holds


@dataclass(frozen=True)
class Part:
    """Vectors of one map of some pictures, and where these stand."""

    shards: list[str]
    shard: NDArray[np.int32]
    row: NDArray[np.int32]
    vectors: NDArray[np.float32]


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows of unit length; zeros stay."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-30)).astype(np.float32)


def located(
    parts: Sequence[Part], shards: pa.DictionaryArray, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For every picture the part that has its vector, -1 where none has, and the line in it."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = shards.indices.to_numpy().astype(np.int64) * _ROWS + rows
    order = np.argsort(wanted)
    part_of, line_of = np.full(len(rows), -1), np.zeros(len(rows), np.int64)
    among = pc.SetLookupOptions(value_set=shards.dictionary)
    for number, part in enumerate(parts):
        codes = pc.call_function("index_in", [pa.array(part.shards, pa.string())], among).fill_null(-1).to_numpy()
        shard = codes[part.shard].astype(np.int64)
        keys = shard * _ROWS + part.row
        places = np.minimum(np.searchsorted(wanted, keys, sorter=order), len(rows) - 1)
        lines = np.flatnonzero((shard >= 0) & (wanted[order[places]] == keys))
        part_of[order[places[lines]]], line_of[order[places[lines]]] = number, lines
    return part_of, line_of


def pool(
    store: Stored,
    name: str,
    missing: NDArray[np.int64],
    shards: pa.DictionaryArray,
    rows: NDArray[np.int64],
    keep: bool,
    progress: Progress,
) -> Iterator[Part]:
    """Vectors of the pictures of some numbers, read shard by shard; ``rows`` are the places of all in ``shards``."""
    codes = shards.indices.to_numpy()
    in_order = missing[np.lexsort([rows[missing], codes[missing]])]
    lines, size = list[tuple[str, int, NDArray[np.float32]]](), 0
    for number in progress(in_order.tolist(), total=len(in_order), desc=f"pool {clipped(name)}"):
        shard = shards.dictionary[codes[number]].as_py()
        if size > _PART_BYTES and shard != lines[-1][0]:
            part, keep = _written(store, name, lines, keep)
            yield part
            lines, size = [], 0
        vector = store.load(number, [name]).pooled(name).numpy()
        if lines and len(vector) != len(lines[0][2]):
            raise StoreError(f"Maps {name!r} have different channels in {store.path}, so they cannot be compared.")
        lines.append((shard, int(rows[number]), vector))
        size += vector.nbytes
    yield _written(store, name, lines, keep)[0]


def _written(
    store: Stored, name: str, lines: Sequence[tuple[str, int, NDArray[np.float32]]], keep: bool
) -> tuple[Part, bool]:
    """A part, mapped where it could be kept, and whether others can be."""
    import pyarrow as pa

    vectors = unit(np.stack([vector for *_, vector in lines]))
    kind = pa.list_(pa.float32(), vectors.shape[1])
    columns = {
        "shard": pa.array([shard for shard, *_ in lines]).dictionary_encode(),
        "row": pa.array([row for _, row, _ in lines], pa.int32()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=kind),
    }
    batch = pa.record_batch(columns).replace_schema_metadata(_metadata(store.recipe_hash, name))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    chunks = [memoryview(sink.getvalue())]
    file = store.path / POOLED / f"{sha256_of(chunks)}.arrow"
    if keep:
        try:
            place(store.path, (file, chunks))
        except StoreError:  # a full disk, no permission: in memory, then
            keep = False
    mapped = _part_of(file, store.recipe_hash, name) if keep else None
    return mapped or _as_part(batch), keep


def _metadata(recipe_hash: str, activation: str) -> dict[str, str]:
    return {"diffeat.format": str(FORMAT_VERSION), "diffeat.recipe_hash": recipe_hash, "activation": activation}


def _as_part(batch: pa.RecordBatch) -> Part:
    shard, vectors = batch["shard"], batch["vector"]
    flat = vectors.values.to_numpy().reshape(len(vectors), -1)
    return Part(shard.dictionary.to_pylist(), shard.indices.to_numpy(), batch["row"].to_numpy(), flat)


def pooled_files(folder: Place) -> list[Place]:
    """The files that pooling wrote, by their names."""
    place = folder / POOLED
    there = listed(place) if isinstance(place, Url) or place.is_dir() else []
    return [place / name for name in there if _NAME.fullmatch(name)]


def read_parts(folder: Place, recipe_hash: str, activation: str) -> Iterator[Part]:
    """What was pooled before; files that are damaged or none of ours do not count."""
    for file in pooled_files(folder):
        if part := _part_of(file, recipe_hash, activation):
            yield part


def _part_of(file: Place, recipe_hash: str, activation: str) -> Part | None:
    batch = _batch_of(file)
    if batch is None:
        return None
    told = {key.decode(): value.decode() for key, value in (batch.schema.metadata or {}).items()}
    return _as_part(batch) if told == _metadata(recipe_hash, activation) else None


def _batch_of(file: Place) -> pa.RecordBatch | None:
    """The columns of a file, mapped; ``None`` if it is damaged, or no file that pooling wrote."""
    import pyarrow as pa

    try:
        if isinstance(file, Url):
            with file.open() as reader:
                source = pa.BufferReader(reader.read())
        elif is_regular(file):
            source = pa.memory_map(str(file))
        else:
            return None
        with pa.ipc.open_file(source) as arrow:
            batch = arrow.get_batch(0)
        batch.validate(full=True)
        vector, shard = batch.schema.field("vector").type, batch.schema.field("shard").type
        kinds = (vector.value_type, shard.value_type, batch.schema.field("row").type)
        nulls = any(column.null_count for column in batch.columns) or batch["vector"].values.null_count
        ours = kinds == (pa.float32(), pa.string(), pa.int32()) and not nulls and vector.list_size > 0
        return batch if ours and arrow.num_record_batches == 1 else None
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError):
        return None


def remove_stale(folder: Path, shards: Container[str]) -> tuple[int, int]:
    """Remove pooled files that are damaged, or of shards that are all gone; how many, and their bytes."""
    removed = size = 0
    for file in pooled_files(folder):
        if isinstance(file, Url) or not is_regular(file):
            continue
        batch = _batch_of(file)
        if batch is None or not any(shard in shards for shard in batch["shard"].dictionary.to_pylist()):
            removed, size = removed + 1, size + file.stat().st_size
            file.unlink()
    return removed, size
