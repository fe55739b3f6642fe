"""The index: one Parquet part for each shard, one row for each map.

A part's metadata tell the format version, the recipe's hash, and the size and SHA-256 of its shard: a shard
counts as complete when its part is there. Nothing in a part depends on when or where it was written.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from diffeat.errors import StoreError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One map: where it lies, whose it is, its shape and range. ``frame`` and ``provenance`` are JSON."""

    shard: str
    position: int
    row: int
    key: str
    image: str
    activation: str
    channels: int
    height: int
    width: int
    dtype: str
    minimum: float
    maximum: float
    abs_max: float
    frame: str
    provenance: str


@dataclass(frozen=True)
class Part:
    """The index of one shard."""

    shard: str
    position: int
    size: int
    sha256: str
    recipe_hash: str
    rows: tuple[Row, ...]

    def to_bytes(self) -> bytes:
        """The Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
        metadata = {
            "diffeat.format": str(FORMAT_VERSION),
            "diffeat.recipe_hash": self.recipe_hash,
            "diffeat.shard": self.shard,
            "diffeat.position": str(self.position),
            "diffeat.size": str(self.size),
            "diffeat.sha256": self.sha256,
        }
        fields = [(f.name, kinds[str(f.type)]) for f in Row.__dataclass_fields__.values()]
        schema = pa.schema(fields, metadata=metadata)
        table = pa.Table.from_pylist([asdict(row) for row in self.rows], schema=schema)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", version="2.6")
        return buffer.getvalue()


def read_part(path: Path) -> Part:
    """Read one part.

    Raises:
        StoreError: The file is damaged or of a newer format.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()
        metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        version = int(metadata["diffeat.format"])
        check_version(version, path)
        return Part(
            shard=metadata["diffeat.shard"],
            position=int(metadata["diffeat.position"]),
            size=int(metadata["diffeat.size"]),
            sha256=metadata["diffeat.sha256"],
            recipe_hash=metadata["diffeat.recipe_hash"],
            rows=tuple(Row(**row) for row in table.to_pylist()),
        )
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise StoreError(
            f"{path} is not a readable part of the index ({error}). Delete it and run the extraction again: "
            "only its shard is computed anew."
        ) from error


def check_version(version: object, path: Path) -> None:
    """Refuse formats that a later diffeat wrote."""
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise StoreError(
            f"{path} has format version {version}; this diffeat reads up to {FORMAT_VERSION}. Update diffeat."
        )


def in_order(parts: Sequence[Part]) -> list[Part]:
    """Parts in the order of the pictures: by position, then by shard name."""
    return sorted(parts, key=lambda part: (part.position, part.shard))
