"""What a person reads about a store: its listing, and the outcome of checking it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from diffeat.errors import DiffeatError, StoreError
from diffeat.features.feature_map import value_range
from diffeat.storage.head import Head
from diffeat.storage.index import Index, Row
from diffeat.storage.layout import check, index_names, leftovers, shard_file
from diffeat.storage.shard import ShardReader


@dataclass
class VerifyReport:
    """The outcome of :meth:`FeatureStore.verify`; ``problems`` is empty when all is well.

    Attributes:
        problems: What is wrong, a line each.
        replaced: Shards that hold replaced pictures only; nobody reads them.
    """

    pictures: int = 0
    maps: int = 0
    shards: int = 0
    size: int = 0
    replaced: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.pictures} pictures, {self.maps} maps, {self.shards} shards, {readable(self.size)}"
        if self.replaced:
            counts += (
                f"; {self.replaced} more shards hold replaced pictures only, which `diffeat store compact` removes"
            )
        if not self.problems:
            return f"Everything is whole: {counts}."
        found = "\n".join(f"  - {problem}" for problem in self.problems)
        return (
            f"{len(self.problems)} problems ({counts} looked at):\n{found}\n"
            "Running the same extraction again repairs shards and the index; `diffeat store compact` removes what "
            "interrupted runs left."
        )


def verify(folder: Path) -> VerifyReport:
    """Read a whole store: the index, hashes, shapes, ranges, finite values, leftovers."""
    report = VerifyReport()
    try:
        head = Head.read(folder)
        index = Index.read(folder, head)
    except StoreError as error:
        report.problems.append(str(error))
        return report
    for name in index_names(folder):
        try:
            if name.epoch == head.epoch:
                check(name.within(folder), name.sha256)
        except StoreError as error:
            report.problems.append(str(error))
    by_shard: dict[str, list[list[Row]]] = {}
    for name in index.pictures:
        rows = index.rows(name)
        by_shard.setdefault(rows[0].shard, []).append(rows)
    for shard, pictures in by_shard.items():
        _check_shard(shard_file(folder, shard), pictures, report)
    report.replaced = len(index.shards.keys() - by_shard)
    report.problems += [
        f"{file.name}: not in the index; left by an interrupted run, or its part of the index is lost"
        for file in leftovers(folder, head.epoch, index.shards)
    ]
    return report


def _check_shard(path: Path, pictures: Sequence[Sequence[Row]], report: VerifyReport) -> None:
    """Read a whole shard, compare it with its rows of the index, and add what was found to the report."""
    report.shards += 1
    report.pictures += len(pictures)
    report.maps += sum(map(len, pictures))
    try:
        report.size += check(path, pictures[0][0].shard, pictures[0][0].size)
        reader = ShardReader(path, pictures[0][0].size)
        for row in (row for rows in pictures for row in rows):
            problem = _check_map(reader, row)
            if problem:
                report.problems.append(f"{path.name}: {row.image} {row.activation}: {problem}")
    except DiffeatError as error:
        names = ", ".join(rows[0].image for rows in pictures[:3]) + (", …" if len(pictures) > 3 else "")
        report.problems.append(f"{error} It holds {len(pictures)} pictures: {names}")


def _check_map(reader: ShardReader, row: Row) -> str:
    values = reader.read(row)
    row.origin()
    span = value_range(values)
    if not all(map(math.isfinite, span)):
        return "NaN or infinite values"
    if span != (row.minimum, row.maximum):
        return "the range of values differs from the index"
    return ""


def listing(path: Path, head: Head, pictures: Sequence[Sequence[Row]], most: int = 20) -> str:
    """A table of the activations and one of the pictures."""
    rows = [row for maps in pictures for row in maps]
    by_name: dict[str, list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.activation, []).append(row)
    shards = {row.shard: row.size for row in rows}
    total = readable(sum(shards.values()))
    lines = [
        f"{path}",
        f"{len(pictures)} pictures · {len(rows)} maps · {len(shards)} shards · {total} · {head.dtype}",
        f"recipe {head.recipe_hash[:12]}",
    ]
    if rows:
        activations = [
            (name, _span(r.channels for r in found), _grids(found), _range(found), readable(_bytes(found)))
            for name, found in by_name.items()
        ]
        lines += ["", *_table(("activation", "channels", "grid h×w", "values", "size"), activations, "lrllr")]
        listed = [
            (maps[0].image, maps[0].digest[:12], _grids(maps), maps[0].shard[:12], readable(_bytes(maps)))
            for maps in pictures[:most]
        ]
        lines += ["", *_table(("picture", "digest", "grid h×w", "shard", "size"), listed, "llllr")]
        if len(pictures) > most:
            lines.append(f"… and {len(pictures) - most} more pictures")
    return "\n".join(lines)


def readable(size: float) -> str:
    """A number of bytes for people, in units of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _bytes(rows: Sequence[Row]) -> int:
    width = {"float32": 4, "int8": 1}
    return sum(math.prod((r.channels, r.height, r.width)) * width.get(r.dtype, 2) for r in rows)


def _span(values) -> str:
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"


def _grids(rows: Sequence[Row]) -> str:
    grids = sorted({(r.height, r.width) for r in rows})
    text = ", ".join(f"{h}×{w}" for h, w in grids[:3])
    return text if len(grids) <= 3 else f"{text}, …"


def _range(rows: Sequence[Row]) -> str:
    return f"{min(r.minimum for r in rows):.3g} … {max(r.maximum for r in rows):.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    cells = [list(head), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        aligned = (c.rjust(w) if s == "r" else c.ljust(w) for c, w, s in zip(row, widths, sides, strict=True))
        return "  ".join(aligned).rstrip()

    return [line(cells[0]), "  ".join("─" * w for w in widths), *map(line, cells[1:])]
