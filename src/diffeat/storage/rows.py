"""Rows of the index, one for each map, and the Parquet files that hold those of one shard or a few: the parts."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from diffeat.errors import StoreError
from diffeat.files import size_and_time
from diffeat.geometry import Frame
from diffeat.storage.head import FORMAT_VERSION, check_version
from diffeat.storage.layout import HEAD_FILE, IndexName, whole
from diffeat.storage.url import Place

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_BYTES = 1 << 30  # of a part in memory, before strings that repeat are counted
_SETTLED = 2.0  # seconds after which a change shows in the time of a file, on any file system


@dataclass(frozen=True)
class Row:
    """One map: whose it is, where it lies, its shape, range and checksum.

    Attributes:
        image: The picture's name.
        digest: Of the picture's content.
        text: What the model read for it.
        generation: How often a picture of this name was replaced before.
        shard: Where the map lies; its place in the order of shards; its size in bytes.
        row: The picture's place in the shard.
        minimum: Of the values on disk, as ``maximum`` and ``abs_max``.
        crc: CRC-32 of the bytes on disk.
        frame: JSON, as ``provenance``.
        stamp: Size and time of the file when it was read (:func:`stamp_of`); empty where they tell nothing.
    """

    image: str
    digest: str
    text: str
    generation: int
    shard: str
    position: int
    size: int
    row: int
    activation: str
    channels: int
    height: int
    width: int
    dtype: str
    minimum: float
    maximum: float
    abs_max: float
    crc: int
    frame: str
    provenance: str
    stamp: str

    def origin(self) -> tuple[Frame, dict[str, Any]]:
        """The frame and the provenance.

        Raises:
            StoreError: They are not what diffeat writes.
        """
        try:
            provenance = json.loads(self.provenance)
            if isinstance(provenance, dict):
                return Frame.from_dict(json.loads(self.frame)), provenance
            reason = "provenance"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}"
        raise StoreError(f"The index tells no frame and provenance of {self.image} ({reason}).")


#: Columns of texts; most repeat.
TEXTS = [field.name for field in fields(Row) if field.type == "str"]
_REPEATED = [name for name in TEXTS if name not in ("image", "digest", "stamp")]


def stamp_of(file: str | os.PathLike[str]) -> str:
    """Size and time of a file: while these are what they were, its content is.

    Empty for a file that was written within two seconds, which could change once more without its time telling.

    Raises:
        OSError: There is no such file.
    """
    size, changed = size_and_time(file)
    settled = abs(time.time() - changed / 1e9) > _SETTLED
    return f"{size}-{changed}" if settled else ""


def schema(metadata: dict[str, str] | None = None) -> pa.Schema:
    import pyarrow as pa

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    return pa.schema([(field.name, kinds[str(field.type)]) for field in fields(Row)], metadata=metadata)


def table_of(rows: Iterable[Row]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(row) for row in rows], schema=schema())


def to_parquet(table: pa.Table, recipe_hash: str) -> bytes:
    import pyarrow.parquet as pq

    metadata = {"diffeat.format": str(FORMAT_VERSION), "diffeat.recipe_hash": recipe_hash}
    buffer = io.BytesIO()
    pq.write_table(table.cast(schema(metadata)).combine_chunks(), buffer, compression="zstd", version="2.6")
    return buffer.getvalue()


def read_part(folder: Place, name: IndexName, recipe_hash: str) -> pa.Table:
    """The columns of a part.

    Raises:
        DamagedError: It is missing, or has changed since it was written.
        StoreError: It cannot be read, or is of another format or recipe.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = name.within(folder)
    data = whole(file, name.sha256)
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data), read_dictionary=_REPEATED)
        check_written(parquet.schema_arrow.metadata, file, recipe_hash)
        sizes = (parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups))
        if sum(sizes) > _MOST_BYTES:
            raise ValueError("too large")
        table = parquet.read(use_threads=len(data) > 1 << 20)
        if "stamp" not in table.column_names:  # written before there were any
            table = table.append_column("stamp", pa.array([""] * table.num_rows))
        table.cast(schema()).validate()
        if any(column.null_count for column in table.columns):
            raise ValueError("cells are empty")
        return table
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{file} is no part of an index that diffeat wrote ({short(error)}).") from error


def check_written(metadata: dict[bytes, bytes] | None, file: Place, recipe_hash: str) -> None:
    """Raise StoreError for a file of the index of another format or recipe, KeyError or ValueError for no such file."""
    found = {key.decode(): value.decode() for key, value in (metadata or {}).items()}
    check_version(int(found["diffeat.format"]), file)
    if found["diffeat.recipe_hash"] != recipe_hash:
        raise StoreError(f"{file} is of another recipe than the store's {HEAD_FILE}. Move it out of the store.")


def short(error: Exception) -> str:
    """The reason of an error, for a message."""
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
