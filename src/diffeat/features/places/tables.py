"""Tables with a column of pictures: Parquet and Arrow files, as ``datasets`` and others write them, and lists as CSV,
TSV or lines of JSON.

The column holds the bytes of picture files, structs of ``bytes`` and ``path``, or paths and URLs, which are relative to
the table. Pictures of which the table holds the bytes are called by the number of their row unless a column of names is
given. Row groups are read one after the other, a few rows at a time.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from diffeat.errors import ImageError, clipped, did_you_mean
from diffeat.features.places.files import file_beside
from diffeat.features.places.readers import Readers
from diffeat.features.places.where import Broken, Encoded, File, Inside, Member, Place, Wanted, reason

#: Rows that are read at once.
_ROWS = 8
#: Columns that hold pictures by their names, where types leave a choice.
PICTURES = (
    "image", "images", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "file_name",
    "filename", "path", "image_path", "file", "url",
)  # fmt: skip


class TableReader:
    """A table in groups of rows: row groups of Parquet, record batches of Arrow."""

    def __init__(self, file: File) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._label, self._stream = str(file), file.stream()
        self._parquet: pq.ParquetFile | None = None
        self._batches: Any = None
        self._next: tuple[str, int, int] | None = None
        self._cells: Iterator[Any] = iter(())
        try:
            start = self._stream.read(6)
            self._stream.seek(0)
            if start[:4] == b"PAR1":
                self._parquet = pq.ParquetFile(self._stream, buffer_size=1 << 20, pre_buffer=False)
                self.schema: pa.Schema = self._parquet.schema_arrow
            else:
                self._batches = pa.ipc.open_file(self._stream) if start == b"ARROW1" else None
                self.schema = (self._batches or pa.ipc.open_stream(self._stream)).schema
        except (pa.ArrowException, OSError) as error:
            self.close()
            raise ImageError(f"{file}: is no table, or one that is cut short ({reason(error)}).") from error

    def close(self) -> None:
        self._stream.close()

    def rows(self, columns: Sequence[str], first: int = 0) -> Iterator[tuple[int, int, dict[str, Any]]]:
        """Group, number in the group, and values of each row, from the group ``first`` on."""
        import pyarrow as pa

        group, number = first, 0
        try:
            for here, batch in self._from(columns, first):
                group, number = here, number if here == group else 0
                values = batch.to_pylist() if columns else [{}] * batch.num_rows
                for row in values:
                    yield group, number, row
                    number += 1
        except (pa.ArrowException, OSError) as error:
            raise ImageError(
                f"{self._label}: is damaged after row {number} of group {group} ({reason(error)})."
            ) from error

    def _from(self, columns: Sequence[str], first: int) -> Iterator[tuple[int, Any]]:
        import pyarrow as pa

        if self._parquet is not None:
            for group in range(first, self._parquet.metadata.num_row_groups):
                pieces = self._parquet.iter_batches(_ROWS, row_groups=[group], columns=list(columns), use_threads=False)
                yield from ((group, piece) for piece in pieces)
        elif self._batches is not None:
            for group in range(first, self._batches.num_record_batches):
                yield from ((group, piece) for piece in _pieces(self._batches.get_batch(group), columns))
        else:
            self._stream.seek(0)
            for group, batch in enumerate(pa.ipc.open_stream(self._stream)):
                if group >= first:
                    yield from ((group, piece) for piece in _pieces(batch, columns))

    def cell(self, column: str, group: int, number: int) -> Any:
        """One value; fast for the next of the same group."""
        there = self._next
        if there is None or there[:2] != (column, group) or there[2] > number:
            self._cells = (row[column] for at, _, row in self.rows([column], group) if at == group)
            there = (column, group, 0)
        value, self._next = None, None
        for _ in range(number - there[2] + 1):
            value = next(self._cells)
        self._next = (column, group, number + 1)
        return value


def _pieces(batch: Any, columns: Sequence[str]) -> Iterator[Any]:
    chosen = batch.select(list(columns))
    return (chosen.slice(i, _ROWS) for i in range(0, batch.num_rows, _ROWS)) if columns else iter([batch])


_TABLES = Readers(TableReader)


@dataclass(frozen=True)
class Cell(Inside, Encoded):
    """A value of a table."""

    column: str
    group: int
    number: int

    @property
    def in_order(self) -> bool:
        return True

    def read(self) -> bytes:
        try:
            with _TABLES.of(self.file, self.mark) as table:
                value = table.cell(self.column, self.group, self.number)
        except StopIteration:
            raise ImageError(f"{self}: the table ends before this row.") from None
        data = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(data, bytes) and data:
            return data
        path = value.get("path") if isinstance(value, dict) else value
        if isinstance(path, str) and path:
            return file_beside(self.file, path).read()
        raise ImageError(f"{self}: there is no picture in this row.")

    def stamp(self) -> str | None:
        return self.mark and f"{self.mark}-{self.column}-{self.group}-{self.number}"


class Table(Place):
    """A Parquet or Arrow file."""

    what = "table (Parquet, Arrow)"
    endings = (".parquet", ".arrow", ".feather")
    options = ("column", "caption_column", "name_column")

    @classmethod
    def pictures(cls, file: File, wanted: Wanted) -> Iterator[Member]:
        mark, table = file.stamp(), TableReader(file)
        with closing(table):
            kinds = {field.name: field.type for field in table.schema}
            likely = [name for name, kind in kinds.items() if _holds_files(kind)]
            likely = likely or [name for name, kind in kinds.items() if _holds_paths(kind) and name in PICTURES]
            column, name, caption = _columns(file, list(kinds), likely, wanted)
            paths = _holds_paths(kinds[column])
            if not paths and not _holds_files(kinds[column]):
                raise ImageError(f"{file}: its column {column!r} holds {kinds[column]}, no picture files and no paths.")
            read = [c for c in dict.fromkeys((name, caption, column if paths else None)) if c is not None]
            for row, (group, number, values) in enumerate(table.rows(read)):
                called, text = _text(values.get(name or "")), _text(values.get(caption or ""))
                if paths:
                    yield _listed(file, f"row {row}", values[column], called, text)
                else:
                    called = called or f"{row:06d}"
                    yield called, Cell(file, mark, called, column, group, number), text


class Rows(Place):
    """A CSV, TSV or JSON-lines file with a column of paths or URLs."""

    what = "list with columns (CSV, TSV, JSON lines)"
    endings = (".csv", ".tsv", ".jsonl")
    options = ("column", "caption_column", "name_column")
    inside = False

    @classmethod
    def pictures(cls, file: File, wanted: Wanted) -> Iterator[Member]:
        rows = _rows(file)
        columns = list(dict.fromkeys(column for _, row in rows for column in row))
        column, name, caption = _columns(file, columns, [c for c in columns if c in PICTURES], wanted)
        for line, row in rows:
            called, text = _text(row.get(name or "")), _text(row.get(caption or ""))
            yield _listed(file, f"line {line}", row.get(column), called, text)


def text_of(file: File) -> str:
    """A file of text.

    Raises:
        ImageError: It is none.
    """
    try:
        return file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(f"{file}: is a list by its name, but no UTF-8 text.") from error


def _rows(file: File) -> list[tuple[int, Mapping[str, Any]]]:
    """Line and values of every row."""
    text, ending = text_of(file), str(file).lower()[-4:]
    try:
        if ending != "sonl":
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if ending == ".tsv" else ",")
            return [(reader.line_num, row) for row in reader]
        rows = [(number, json.loads(line)) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    except (ValueError, csv.Error) as error:
        raise ImageError(f"{file}: cannot be read as a list ({reason(error)}).") from error
    if bad := [number for number, row in rows if not isinstance(row, dict)]:
        raise ImageError(f"{file}: line {bad[0]} is no JSON object.")
    return rows


def _columns(
    file: File, columns: Sequence[str], likely: Sequence[str], wanted: Wanted
) -> tuple[str, str | None, str | None]:
    """Those of pictures (where none is asked for, one that is likely), names and captions."""
    has = clipped(", ".join(map(str, columns)), 200) or "none"
    for option, column in (
        ("--column", wanted.column), ("--name-column", wanted.name_column), ("--caption-column", wanted.caption_column)
    ):  # fmt: skip
        if column is not None and column not in columns:
            near = did_you_mean(column, map(str, columns))
            raise ImageError(f"{file}: has no column {column!r} ({option}); it has {has}. {near}".rstrip())
    best = sorted((c for c in likely if c in PICTURES), key=PICTURES.index) or likely
    if wanted.column is None and not best:
        raise ImageError(f"{file}: has no column of pictures; it has {has}. Name the one to take: --column.")
    if wanted.column is None and best is likely and len(best) > 1:
        raise ImageError(f"{file}: may have its pictures in {' or '.join(best)}. Name the one to take: --column.")
    return wanted.column or best[0], wanted.name_column, wanted.caption_column


def _listed(file: File, row: str, path: object, name: str | None, text: str | None) -> Member:
    """A picture that a row names by its path."""
    if not isinstance(path, str) or not path.strip():
        return name or f"({row})", Broken(f"{file}, {row}: there is no path of a picture."), text
    try:
        there = file_beside(file, path)
        there.check()
    except ImageError as error:
        there = Broken(f"{file}, {row}: {error}")
    return name or path, there, text


def _holds_files(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    if types.is_struct(kind):
        return any(field.name == "bytes" and _holds_files(field.type) for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)


def _holds_paths(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _text(value: object) -> str | None:
    return None if value is None or value == "" else value.decode() if isinstance(value, bytes) else str(value)
