"""What a person reads about a store: its listing, and the outcome of checking it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from diffeat.errors import DiffeatError, StoreError, printable
from diffeat.features.feature_map import value_range
from diffeat.storage.formats import get_format
from diffeat.storage.head import Head
from diffeat.storage.index import Index
from diffeat.storage.layout import check, index_names, leftovers, shard_file
from diffeat.storage.pooling import pooled_files
from diffeat.storage.rows import Row
from diffeat.storage.shard import ShardReader
from diffeat.storage.url import Place


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


def verify(folder: Place) -> VerifyReport:
    """Read a whole store: the index, hashes, shapes, ranges, finite values, leftovers."""
    report = VerifyReport()
    try:
        head = Head.read(folder)
        index = Index.read(folder, head)
    except StoreError as error:
        report.problems.append(str(error))
        return report
    _check_index(folder, head, index, report)
    shards = index.column("shard")
    order = sorted(range(len(shards)), key=shards.__getitem__)
    for shard, numbers in groupby(order, shards.__getitem__):
        _check_shard(shard_file(folder, shard), [index.at(number) for number in numbers], report)
    report.replaced = len(index.shards) - report.shards
    if isinstance(folder, Path):
        report.problems += [
            f"{file.name}: not in the index; left by an interrupted run, or its part of the index is lost"
            for file in leftovers(folder, head.epoch, index.shards)
        ]
    return report


def _check_index(folder: Place, head: Head, index: Index, report: VerifyReport) -> None:
    """Look at every file of the index that counts, and for those that the summary stands for."""
    there = [name for name in index_names(folder) if name.epoch == head.epoch]
    for name in there:
        try:
            check(name.within(folder), name.sha256)
        except StoreError as error:
            report.problems.append(str(error))
    lost = index.covered - {name.sha256 for name in there}
    for file in pooled_files(folder):
        try:
            check(file, file.name.partition(".")[0])
        except StoreError as error:
            report.problems.append(f"{error} Delete it: pictures are pooled anew when they are compared.")
    report.problems += [f"The part {sha256} of the index is missing; the next run makes it again." for sha256 in lost]


def _check_shard(path: Place, pictures: Sequence[Sequence[Row]], report: VerifyReport) -> None:
    """Read a whole shard, compare it with its rows of the index, and add what was found to the report."""
    report.shards += 1
    report.pictures += len(pictures)
    report.maps += sum(map(len, pictures))
    try:
        report.size += check(path, pictures[0][0].shard, pictures[0][0].size)
        reader = ShardReader(path, pictures[0][0].size)
        for row in (row for rows in pictures for row in rows):
            span = value_range(reader.read(row))
            row.origin()
            if not all(map(math.isfinite, span)):
                report.problems.append(f"{path.name}: {row.image} {row.activation}: NaN or infinite values")
            elif span != (row.minimum, row.maximum):
                told = "the range of values differs from the index"
                report.problems.append(f"{path.name}: {row.image} {row.activation}: {told}")
    except DiffeatError as error:
        names = ", ".join(rows[0].image for rows in pictures[:3]) + (", …" if len(pictures) > 3 else "")
        report.problems.append(f"{error} It holds {len(pictures)} pictures: {names}")


def listing(path: Place, head: Head, index: Index, most: int = 20) -> str:
    """A table of the activations and one of the pictures."""
    table, _ = index.table()
    shards = table.group_by("shard").aggregate([("size", "max")])
    lines = [
        f"{path}",
        f"{len(index)} pictures · {table.num_rows} maps · {shards.num_rows} shards · "
        f"{readable(sum(shards['size_max'].to_pylist()))} · {head.dtype}",
        f"recipe {head.recipe_hash[:12]}",
    ]
    width = get_format(head.dtype).width
    if table.num_rows:
        grids = table.group_by(["activation", "channels", "height", "width"]).aggregate(
            [("minimum", "min"), ("maximum", "max"), ([], "count_all")]
        )
        by_name = {name: [g for g in grids.to_pylist() if g["activation"] == name] for name in index.activations()}
        activations = []
        for name, kinds in by_name.items():
            values = f"{min(k['minimum_min'] for k in kinds):.3g} … {max(k['maximum_max'] for k in kinds):.3g}"
            size = sum(k["count_all"] * k["channels"] * k["height"] * k["width"] for k in kinds) * width
            shapes = {(k["height"], k["width"]) for k in kinds}
            activations.append((name, _span({k["channels"] for k in kinds}), _grids(shapes), values, readable(size)))
        lines += ["", *_table(("activation", "channels", "grid h×w", "values", "size"), activations, "lrllr")]
        listed = []
        for maps in (index.at(number) for number in range(min(most, len(index)))):
            size = sum(row.channels * row.height * row.width for row in maps) * width
            kinds = {(row.height, row.width) for row in maps}
            first = maps[0]
            listed.append((printable(first.image), first.digest[:12], _grids(kinds), first.shard[:12], readable(size)))
        lines += ["", *_table(("picture", "digest", "grid h×w", "shard", "size"), listed, "llllr")]
        if len(index) > most:
            lines.append(f"… and {len(index) - most} more pictures")
    return "\n".join(lines)


def readable(size: float) -> str:
    """A number of bytes for people, in units of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _span(values: Collection[int]) -> str:
    return str(min(values)) if len(values) == 1 else f"{min(values)}–{max(values)}"


def _grids(kinds: Collection[tuple[int, int]]) -> str:
    text = ", ".join(f"{h}×{w}" for h, w in sorted(kinds)[:3])
    return text if len(kinds) <= 3 else f"{text}, …"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    cells = [list(head), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        aligned = (c.rjust(w) if s == "r" else c.ljust(w) for c, w, s in zip(row, widths, sides, strict=True))
        return "  ".join(aligned).rstrip()

    return [line(cells[0]), "  ".join("─" * w for w in widths), *map(line, cells[1:])]
