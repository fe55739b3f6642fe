"""The rows of many parts in one file, which is mapped and read where it lies.

An Arrow file of one batch. Texts are codes into sorted lists of the different ones, so that a picture is found by
halving; rows stand in the order of their pictures (:data:`ORDER`). A column more tells the part that a row comes from:
a summary stands for the parts it names, and a lost one can be made again from it. The same parts give the same bytes.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diffeat.errors import StoreError
from diffeat.storage.atomic import DamagedError, disk_errors, flush, opened, sync_folder, temporary
from diffeat.storage.head import FORMAT_VERSION
from diffeat.storage.layout import IndexName, place, ready
from diffeat.storage.rows import TEXTS, check_written, schema, short
from diffeat.storage.url import Place, Url

if TYPE_CHECKING:
    import pyarrow as pa

#: What the order of pictures goes by: ``new`` parts after those of compacting, then the first of these that differs.
ORDER = ("new", "generation", "position", "shard", "row", "part")


#: A value for each of :data:`ORDER`.
Key = tuple[bool, int, int, str, int, str]


class Entry(NamedTuple):
    """The rows of a picture.

    Attributes:
        key: Of these rows.
        first: Of the first rows that bear the name.
        table: Number of the part that they stand in; -1 is the summary.
    """

    key: Key
    first: Key
    table: int
    start: int
    maps: int


def _schema(recipe_hash: str) -> pa.Schema:
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    columns = [pa.field(field.name, text if field.name in TEXTS else field.type, nullable=False) for field in schema()]
    metadata = {"diffeat.format": str(FORMAT_VERSION), "diffeat.recipe_hash": recipe_hash}
    more = [pa.field("new", pa.bool_(), nullable=False), pa.field("part", text, nullable=False)]
    return pa.schema([*columns, *more], metadata=metadata)


class Summary:
    """The pictures of a summary, by their number in its sorted list of names."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.batch = batch
        self.names: pa.StringArray = batch["image"].dictionary
        codes = _numbers(batch["image"])
        changes = np.zeros(len(codes), bool)
        changes[:1] = True
        for name in ("image", *ORDER):
            values = _numbers(batch[name])
            changes[1:] |= values[1:] != values[:-1]
        self._starts = np.flatnonzero(changes).astype(np.int32)
        self._last, self._first = (np.zeros(len(self.names), np.int32) for _ in range(2))
        here = codes[self._starts]
        self._last[here] = np.arange(len(here))
        self._first[here[::-1]] = np.arange(len(here))[::-1]

    @property
    def ordered(self) -> np.ndarray:
        """Numbers of the pictures in their order."""
        return np.argsort(self._first)

    def parts(self, *, old: bool = False) -> set[str]:
        """Digests of the parts that it stands for; ``old``: of those alone that compacting wrote."""
        column = self.batch["part"]
        codes = _numbers(column)[~_numbers(self.batch["new"])] if old else _numbers(column)
        return set(column.dictionary.take(np.unique(codes)).to_pylist())

    def find(self, name: str) -> int | None:
        """The number of a name."""
        return _find(self.names, name)

    def of_content(self, digest: str) -> Iterator[int]:
        """The numbers of the pictures of a content."""
        column = self.batch["digest"]
        code = _find(column.dictionary, digest)
        if code is not None:
            rows = np.flatnonzero(_numbers(column) == code)
            numbers = np.unique(_numbers(self.batch["image"])[rows])
            yield from numbers[np.isin(self.rows(numbers), rows)].tolist()

    def rows(self, numbers: np.ndarray) -> np.ndarray:
        """The first of the rows that count, of pictures."""
        return self._starts[self._last[numbers]]

    def counts(self, numbers: np.ndarray) -> np.ndarray:
        """How many maps pictures have."""
        return np.diff(self._starts, append=self.batch.num_rows)[self._last[numbers]]

    def span(self, number: int) -> tuple[int, int]:
        """The first of the rows that count, of one picture, and how many there are."""
        last = int(self._last[number])
        start = int(self._starts[last])
        end = int(self._starts[last + 1]) if last + 1 < len(self._starts) else self.batch.num_rows
        return start, end - start

    def entry(self, number: int) -> Entry:
        """Where a picture stands."""
        start, maps = self.span(number)
        return Entry(self._key(start), self.first(number), -1, start, maps)

    def first(self, number: int) -> Key:
        """What the place of a picture in the order goes by."""
        return self._key(int(self._starts[self._first[number]]))

    def shards(self) -> dict[str, int]:
        """How many pictures each shard holds."""
        column, rows = self.batch["shard"], _numbers(self.batch["row"])[self._starts]
        codes = _numbers(column)[self._starts]
        order = np.lexsort([rows, codes])
        codes, rows = codes[order], rows[order]
        fresh = np.r_[True, (codes[1:] != codes[:-1]) | (rows[1:] != rows[:-1])]
        counts = np.bincount(codes[fresh], minlength=len(column.dictionary))
        return dict(zip(column.dictionary.to_pylist(), counts.tolist(), strict=True))

    def _key(self, row: int) -> Key:
        new, generation, position, shard, place, part = (self.batch[name][row].as_py() for name in ORDER)
        return new, generation, position, shard, place, part


def _find(texts: pa.StringArray, text: str) -> int | None:
    place = bisect_left(range(len(texts)), text, key=lambda i: texts[i].as_py())
    return place if place < len(texts) and texts[place].as_py() == text else None


def read_summary(folder: Place, name: IndexName, recipe_hash: str) -> pa.RecordBatch:
    """The columns of a summary, which take no memory until they are looked at.

    Raises:
        DamagedError: It is missing, or has changed since it was written.
        StoreError: It cannot be read, or is of another format or recipe.
    """
    import pyarrow as pa

    file = name.within(folder)
    with opened(file) as reader:
        if isinstance(file, Url):
            data: bytes | mmap.mmap = reader.read()
        elif os.fstat(reader.fileno()).st_size:
            data = mmap.mmap(reader.fileno(), 0, access=mmap.ACCESS_READ)
        else:
            data = b""
        if hashlib.sha256(data).hexdigest() != name.sha256:
            raise DamagedError(f"{file} has changed since it was written.")
    try:
        with pa.ipc.open_file(pa.py_buffer(data)) as arrow:
            check_written(arrow.schema.metadata, file, recipe_hash)
            if not arrow.schema.equals(_schema(recipe_hash)) or arrow.num_record_batches != 1:
                raise ValueError("other columns")
            batch = arrow.get_batch(0)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{file} is no part of an index that diffeat wrote ({short(error)}).") from error
    if isinstance(data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.madvise(mmap.MADV_DONTNEED)  # looked through once; from here on only what is asked for
    return batch


def merged(tables: Sequence[pa.Table], recipe_hash: str) -> pa.RecordBatch:
    """Rows with the columns of a summary, sorted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = _schema(recipe_hash)
    table = joined(tables).cast(wanted).combine_chunks()
    columns = {}
    for name in wanted.names:
        values = table[name].chunk(0) if table.num_rows else pa.array([], wanted.field(name).type)
        if isinstance(values, pa.DictionaryArray):
            order = pc.call_function("array_sort_indices", [values.dictionary])
            ranks = np.empty(len(order), np.int32)
            ranks[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
            codes = pa.array(ranks[_numbers(values)])
            values = pa.DictionaryArray.from_arrays(codes, values.dictionary.take(order))
        columns[name] = values
    keys = [_numbers(columns[name]) for name in reversed(ORDER)]
    order = pa.array(np.lexsort(keys))
    return pa.RecordBatch.from_arrays([columns[name].take(order) for name in wanted.names], schema=wanted)


def joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Rows one after the other, their texts as codes into common lists."""
    import pyarrow as pa

    wanted = _schema("")
    return pa.concat_tables([table.cast(wanted) for table in tables]).unify_dictionaries()


def _numbers(column: pa.Array) -> np.ndarray:
    """What a column is sorted by; codes of texts are in their order."""
    import pyarrow as pa

    values = column.indices if isinstance(column, pa.DictionaryArray) else column
    return values.to_numpy(zero_copy_only=False)


def write_summary(folder: Place, epoch: int, batch: pa.RecordBatch) -> IndexName:
    """Put a summary in its place."""
    import pyarrow as pa

    if isinstance(folder, Url):
        sink = pa.BufferOutputStream()
        _write(sink, batch)
        data = memoryview(sink.getvalue())
        name = IndexName.of(epoch, "all", [data])
        place(folder, (name.within(folder), [data]))
        return name
    unfinished = temporary(folder / "index" / f"{epoch}-all.arrow")
    with disk_errors(folder):
        try:
            ready(unfinished.parent)
            with open(unfinished, "xb") as file:
                _write(file, batch)
                flush(file)
            with open(unfinished, "rb") as file:
                name = IndexName(epoch, "all", hashlib.file_digest(file, "sha256").hexdigest())
            os.replace(unfinished, folder / "index" / str(name))
            sync_folder(unfinished.parent)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
    return name


def _write(sink: object, batch: pa.RecordBatch) -> None:
    import pyarrow as pa

    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def part_of(batch: pa.RecordBatch, code: int) -> pa.Table:
    """The rows of a part, as they were written."""
    import pyarrow as pa

    rows = np.flatnonzero(_numbers(batch["part"]) == code)
    rows = rows[np.lexsort([_numbers(batch[name])[rows] for name in ("row", "position")])]
    return pa.Table.from_batches([batch.take(pa.array(rows))]).select(schema().names).cast(schema())
