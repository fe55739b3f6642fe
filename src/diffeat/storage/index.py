"""The index: which rows count, and where those of a picture stand, in a summary and in the parts written after it.

A picture is named once for readers. Where several rows bear a name, the last in the order of :data:`ORDER` count: a
picture that replaces another has the generation after it. A picture keeps the place of the first rows of its name.
Nothing in a file depends on when or where it was written.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from diffeat.errors import StoreError
from diffeat.storage.atomic import DamagedError
from diffeat.storage.head import Head
from diffeat.storage.layout import HEAD_FILE, IndexName, index_names
from diffeat.storage.rows import Row, read_part, schema
from diffeat.storage.summary import ORDER, Entry, Summary, joined, merged, read_summary
from diffeat.storage.url import Place

if TYPE_CHECKING:
    import pyarrow as pa

#: Parts from which on they are summed up.
MANY = 64
_FIELDS = [field.name for field in fields(Row)]
_NONE = np.iinfo(np.int64).min


class Index:
    """The rows of a store.

    Attributes:
        damaged: Parts whose rows are not known: what they held may be missing, or have been replaced.
        spared: Damaged summaries, whose rows stand in the parts too.
        summary: What is read in the stead of many parts, if there is such a file.
        covered: Digests of the parts that it stands for.
        late: How many parts it does not stand for.
    """

    def __init__(self, batch: pa.RecordBatch | None = None) -> None:
        self.damaged: list[DamagedError] = []
        self.spared: list[DamagedError] = []
        self.summary = None if batch is None else Summary(batch)
        self.covered: set[str] = self.summary.parts() if self.summary else set()
        self.late = 0
        self._tables: list[pa.Table] = []
        self._late: list[Entry] = []  # pictures of other parts
        self._tail: dict[str, int] = {}  # their numbers by name
        self._contents: dict[str, set[str]] = {}  # names by content
        self._shards: dict[str, set[int]] = {}
        self._fresh = 0  # those that the summary does not have

    @classmethod
    def read(cls, folder: Place, head: Head) -> Index:
        """Read the files of the index that count.

        Raises:
            StoreError: A file cannot be read, or is of another format or recipe.
        """
        names = index_names(folder)
        current = [name for name in names if name.epoch == head.epoch]
        if names and not current:
            raise StoreError(
                f"{folder / HEAD_FILE} does not belong to the index beside it (epoch {head.epoch} there, "
                f"{names[-1].epoch} here). Put the right one back from a copy; nothing here was changed."
            )
        index, spared, damaged = cls(), list[DamagedError](), list[DamagedError]()
        for name in (name for name in current if name.kind == "all"):
            try:
                batch = read_summary(folder, name, head.recipe_hash)
            except DamagedError as error:
                spared.append(error)
                continue
            if batch.num_rows and (index.summary is None or batch.num_rows > index.summary.batch.num_rows):
                index = cls(batch)
        index.spared, index.damaged = spared, damaged
        old = {name.sha256 for name in current if name.kind == "old"}
        if (lost := head.parts - len(old | (index.summary.parts(old=True) if index.summary else set()))) > 0:
            damaged.append(DamagedError(f"{folder / 'index'} has lost {lost} files."))
        for name in current:
            if name.kind == "all" or name.sha256 in index.covered:
                continue
            try:
                index.add(read_part(folder, name, head.recipe_hash), name)
            except DamagedError as error:
                damaged.append(error)
        if index.late > 4 * MANY and index.late > len(index.covered) // 16:  # to be found quickly
            whole = cls(index.merged(head.recipe_hash))
            whole.damaged, whole.spared, whole.covered, whole.late = damaged, spared, index.covered, index.late
            return whole
        return index

    def add(self, table: pa.Table, name: IndexName) -> None:
        import pyarrow as pa

        if not table.num_rows:
            return
        new, self.late = name.kind == "new", self.late + 1
        rows = list(zip(*(table[f].to_pylist() for f in ("image", "digest", *ORDER[1:-1])), strict=True))
        starts = [i for i, row in enumerate(rows) if not i or row != rows[i - 1]]
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            image, digest, generation, position, shard, row = rows[start]
            key = (new, generation, position, shard, row, name.sha256)
            entry = Entry(key, key, len(self._tables), start, end - start)
            if (known := self._known(image)) is not None:
                entry = max(entry, known)._replace(first=min(key, known.first))
            self._contents.setdefault(digest, set()).add(image)
            self._shards.setdefault(shard, set()).add(row)
            if image in self._tail:
                self._late[self._tail[image]] = entry
            else:
                self._fresh += known is None
                self._tail[image] = len(self._late)
                self._late.append(entry)
        origin = pa.array([name.sha256]).take(pa.array(np.zeros(table.num_rows, np.int64)))
        whose = pa.array(np.full(table.num_rows, new))
        self._tables.append(table.select(_FIELDS).append_column("new", whose).append_column("part", origin))
        self.__dict__.pop("_ordered", None)

    def merged(self, recipe_hash: str) -> pa.RecordBatch:
        """All rows, as a summary holds them."""
        return merged(self._all(), recipe_hash)

    def _all(self) -> list[pa.Table]:
        import pyarrow as pa

        early = [pa.Table.from_batches([self.summary.batch])] if self.summary else []
        return [*early, *self._tables]

    # --- pictures --------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self._fresh + (len(self.summary.names) if self.summary else 0)

    def __contains__(self, name: str) -> bool:
        return self._number(name) is not None

    def _number(self, name: str) -> int | None:
        if name in self._tail:
            return -1 - self._tail[name]
        return self.summary.find(name) if self.summary else None

    def _known(self, name: str) -> Entry | None:
        number = self._number(name)
        if number is None or number < 0 or not self.summary:
            return None if number is None else self._late[-1 - number]
        return self.summary.entry(number)

    @cached_property
    def _ordered(self) -> np.ndarray:
        """All pictures in their order: numbers of the summary, and -1, -2, … for those of other parts."""
        late = sorted(range(len(self._late)), key=lambda number: self._late[number].first)
        if self.summary is None:
            return -1 - np.array(late, np.int64)
        summary = self.summary
        replaced = [number for name in self._tail if (number := summary.find(name)) is not None]
        numbers = summary.ordered
        if replaced:
            numbers = numbers[~np.isin(numbers, replaced)]
        places = [bisect_left(numbers, self._late[n].first, key=summary.first) for n in late]
        return np.insert(numbers, places, -1 - np.array(late, np.int64))

    def find(self, names: Sequence[str]) -> tuple[list[str], np.ndarray]:
        """Those of some names that are there, and their numbers, for :meth:`column`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        numbers = np.full(len(names), _NONE)
        if self.summary is not None:
            among = pc.SetLookupOptions(value_set=self.summary.names)
            found = pc.call_function("index_in", [pa.array(names, pa.string())], among)
            numbers = found.cast(pa.int64()).fill_null(_NONE).to_numpy()
        late = [self._tail.get(name, _NONE) for name in names] if self._tail else _NONE
        numbers = np.where(np.equal(late, _NONE), numbers, -1 - np.asarray(late))
        there = numbers != _NONE
        return [name for name, is_there in zip(names, there, strict=True) if is_there], numbers[there]

    def column(self, field: str, numbers: np.ndarray | None = None) -> list[Any]:
        """A column's value in the first row of pictures: of all in their order, or of those :meth:`find` gave."""
        return self.values(field, numbers).to_pylist()

    def values(self, field: str, numbers: np.ndarray | None = None) -> pa.ChunkedArray:
        """:meth:`column` as it lies in memory: texts of a summary as codes into its list of them."""
        import pyarrow as pa

        numbers = self._ordered if numbers is None else numbers
        early = numbers >= 0
        chunks: list[pa.Array] = []
        if self.summary is not None and early.any():
            chunks.append(self.summary.batch[field].take(pa.array(self.summary.rows(numbers[early]))))
        if not early.all():
            late = (self._late[-1 - number] for number in numbers[~early])
            plain = pa.array([self._table(e)[field][e.start].as_py() for e in late], schema().field(field).type)
            chunks.append(plain.dictionary_encode() if pa.types.is_string(plain.type) else plain)
        kind = chunks[0].type if chunks else schema().field(field).type
        together = pa.chunked_array(chunks, kind).unify_dictionaries()
        if len(chunks) < 2:
            return together
        places = np.concatenate([np.flatnonzero(early), np.flatnonzero(~early)])
        return together.take(pa.array(np.argsort(places)))

    def table(self) -> tuple[pa.Table, np.ndarray]:
        """The rows that count in the order of the pictures, and the number of maps of each picture."""
        import pyarrow as pa

        tables = self._all()
        numbers, early = self._ordered, self._ordered >= 0
        starts, counts = np.zeros(len(numbers), np.int64), np.zeros(len(numbers), np.int64)
        if self.summary is not None:
            starts[early], counts[early] = self.summary.rows(numbers[early]), self.summary.counts(numbers[early])
        offsets = np.cumsum([0, *(table.num_rows for table in tables)])[-1 - len(self._tables) :]
        for place in np.flatnonzero(~early):
            entry = self._late[-1 - numbers[place]]
            starts[place] = entry.start + (offsets[entry.table] if entry.table >= 0 else 0)
            counts[place] = entry.maps
        if not tables:
            return schema().empty_table(), counts
        rows = np.repeat(starts - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        return joined(tables).select(_FIELDS).take(pa.array(rows)), counts

    def names(self) -> list[str]:
        return self.column("image")

    def at(self, place: int) -> list[Row]:
        """The maps of a picture by its place in the order; IndexError where there is none."""
        return self._rows(int(self._ordered[place]))

    def rows(self, name: str) -> list[Row]:
        """The maps of a picture; KeyError where there is none."""
        number = self._number(name)
        if number is None:
            raise KeyError(name)
        return self._rows(number)

    def _table(self, entry: Entry) -> pa.Table | pa.RecordBatch:
        return self.summary.batch if entry.table < 0 and self.summary else self._tables[entry.table]

    def _rows(self, number: int) -> list[Row]:
        if number < 0 or self.summary is None:
            entry = self._late[-1 - number]
            table, start, maps = self._table(entry), entry.start, entry.maps
        else:
            table, (start, maps) = self.summary.batch, self.summary.span(number)
        columns = [table[field].slice(start, maps).to_pylist() for field in _FIELDS]
        return [Row(*values) for values in zip(*columns, strict=True)]

    def generation(self, name: str) -> int | None:
        entry = self._known(name)
        return None if entry is None else entry.key[1]

    def named(self, digest: str) -> str | None:
        """The first picture of a content."""
        names = set(self._contents.get(digest, ()))
        if self.summary is not None:
            names |= {self.summary.names[number].as_py() for number in self.summary.of_content(digest)}
        entries = [(entry, name) for name in names if (entry := self._known(name))]
        firsts = [(e.first, name) for e, name in entries if self._table(e)["digest"][e.start].as_py() == digest]
        return min(firsts)[1] if firsts else None

    def activations(self) -> list[str]:
        tables = [*([self.summary.batch] if self.summary else []), *self._tables]
        return list(dict.fromkeys(name for table in tables for name in table["activation"].unique().to_pylist()))

    @property
    def shards(self) -> dict[str, int]:
        """Every shard that a row names, those of replaced pictures included, and how many pictures it holds."""
        late = {shard: len(rows) for shard, rows in self._shards.items()}
        return {**(self.summary.shards() if self.summary else {}), **late}
