"""The index: one row for each map, in Parquet files that are read as columns and made into rows when one is asked for.

A picture is named once for readers. Where several rows bear a name, those of the highest generation count: a picture
that replaces another has the generation after it. Nothing in a file depends on when or where it was written.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffeat.errors import StoreError
from diffeat.geometry import Frame
from diffeat.storage.atomic import DamagedError
from diffeat.storage.head import FORMAT_VERSION, Head, check_version
from diffeat.storage.layout import HEAD_FILE, IndexName, index_names, whole

_MOST_BYTES = 1 << 30  # of a table in memory, before strings that repeat are counted


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


_COLUMNS = [(field.name, str(field.type)) for field in fields(Row)]
_REPEATED = ["text", "shard", "activation", "dtype", "frame", "provenance"]


def _schema(metadata: dict[str, str] | None = None) -> Any:
    import pyarrow as pa

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
    return pa.schema([(name, kinds[kind]) for name, kind in _COLUMNS], metadata=metadata)


def table_of(rows: Iterable[Row]) -> Any:
    """Rows as columns."""
    import pyarrow as pa

    return pa.Table.from_pylist([asdict(row) for row in rows], schema=_schema())


def to_parquet(table: Any, recipe_hash: str) -> bytes:
    """A file of the index."""
    import pyarrow.parquet as pq

    metadata = {"diffeat.format": str(FORMAT_VERSION), "diffeat.recipe_hash": recipe_hash}
    buffer = io.BytesIO()
    pq.write_table(table.cast(_schema(metadata)).combine_chunks(), buffer, compression="zstd", version="2.6")
    return buffer.getvalue()


def read_index_file(file: Path, name: IndexName, recipe_hash: str) -> Any:
    """The columns of a file of the index.

    Raises:
        DamagedError: It is missing, or has changed since it was written.
        StoreError: It cannot be read, or is of another format or recipe.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = whole(file, name.sha256)
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data), read_dictionary=_REPEATED)
        metadata = {k.decode(): v.decode() for k, v in (parquet.schema_arrow.metadata or {}).items()}
        check_version(int(metadata["diffeat.format"]), file)
        if metadata["diffeat.recipe_hash"] != recipe_hash:
            raise StoreError(f"{file} is of another recipe than the store's {HEAD_FILE}. Move it out of the store.")
        sizes = (parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups))
        if sum(sizes) > _MOST_BYTES:
            raise ValueError("too large")
        table = parquet.read(use_threads=len(data) > 1 << 20)
        table.cast(_schema()).validate()
        if any(table[column].null_count for column, _ in _COLUMNS):
            raise ValueError("cells are empty")
        return table
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise StoreError(f"{file} is no part of an index that diffeat wrote ({reason}).") from error


class Entry(NamedTuple):
    """Where the rows of a picture stand."""

    table: int
    start: int
    maps: int
    generation: int


class Index:
    """The rows of a store.

    Attributes:
        pictures: The rows of every picture that counts, by name, in the order of the pictures.
        shards: Every shard that a row names, those of replaced pictures included, and how many pictures it holds.
        damaged: Files whose rows are not known: what they held may be missing, or have been replaced.
        spared: Files that are damaged, and whose rows stand in another file too.
    """

    def __init__(self) -> None:
        self.pictures: dict[str, Entry] = {}
        self.shards: dict[str, int] = {}
        self.damaged: list[DamagedError] = []
        self.spared: list[DamagedError] = []
        self._tables: list[Any] = []

    @classmethod
    def read(cls, folder: Path, head: Head) -> Index:
        """Read the files of the index that count.

        Raises:
            StoreError: A file cannot be read, or is of another format or recipe.
        """
        index = cls()
        names = index_names(folder)
        current = [name for name in names if name.epoch == head.epoch]
        if names and not current:
            raise StoreError(
                f"{folder / HEAD_FILE} does not belong to the index beside it (epoch {head.epoch} there, "
                f"{names[-1].epoch} here). Put the right one back from a copy; nothing here was changed."
            )
        by_kind = {kind: [name for name in current if name.kind == kind] for kind in ("all", "old", "new")}
        tables = list(index._readable(folder, by_kind["all"], head, index.spared))
        if not tables:
            if (lost := head.parts - len(by_kind["old"])) > 0:
                index.damaged.append(DamagedError(f"{folder / 'index'} has lost {lost} files."))
            tables = sorted(index._readable(folder, by_kind["old"], head, index.damaged), key=_place)
        tables += sorted(index._readable(folder, by_kind["new"], head, index.damaged), key=_place)
        for table in tables:
            index.add(table)
        return index

    @staticmethod
    def _readable(folder: Path, names: Sequence[IndexName], head: Head, damaged: list[DamagedError]) -> Iterator[Any]:
        for name in names:
            try:
                table = read_index_file(name.within(folder), name, head.recipe_hash)
            except DamagedError as error:
                damaged.append(error)
                continue
            if table.num_rows:
                yield table

    def add(self, table: Any) -> None:
        """Take further rows; they count where they are of a later generation than those of the same name."""
        number = len(self._tables)
        self._tables.append(table)
        shard = table["shard"].combine_chunks().dictionary_encode()
        generations = table["generation"].to_numpy()
        places = np.stack([shard.indices.to_numpy(), table["row"].to_numpy(), generations])
        starts = np.flatnonzero(np.r_[True, (np.diff(places, axis=1) != 0).any(axis=0)])
        counts = np.diff(np.r_[starts, table.num_rows])
        pictures = np.bincount(places[0][starts], minlength=len(shard.dictionary))
        self.shards |= dict(zip(shard.dictionary.to_pylist(), pictures.tolist(), strict=True))
        names = table["image"].take(starts).to_pylist()
        for name, start, count, generation in zip(
            names, starts.tolist(), counts.tolist(), generations[starts].tolist(), strict=True
        ):
            known = self.pictures.get(name)
            if known is None or known.generation <= generation:
                self.pictures[name] = Entry(number, start, count, generation)

    def rows(self, name: str) -> list[Row]:
        """The maps of a picture."""
        entry = self.pictures[name]
        return [Row(**row) for row in self._tables[entry.table].slice(entry.start, entry.maps).to_pylist()]

    def column(self, name: str) -> list[Any]:
        """A column's value in the first row of every picture that counts, in the order of the pictures."""
        by_table: dict[int, list[int]] = {}
        for entry in self.pictures.values():
            by_table.setdefault(entry.table, []).append(entry.start)
        values = {
            number: iter(self._tables[number][name].take(starts).to_pylist()) for number, starts in by_table.items()
        }
        return [next(values[entry.table]) for entry in self.pictures.values()]

    def activations(self) -> list[str]:
        """Names of all activations."""
        return list(dict.fromkeys(name for table in self._tables for name in table["activation"].unique().to_pylist()))


def _place(table: Any) -> tuple[int, int, str]:
    """The place of a shard in the order of all; what replaces other pictures comes later, and takes their places."""
    generation = max(table["generation"].to_pylist())
    return generation, table["position"][0].as_py(), table["shard"][0].as_py()
