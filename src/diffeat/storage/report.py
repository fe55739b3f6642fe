"""What a person reads about a store: its listing, and the outcome of checking it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from diffeat.errors import DiffeatError
from diffeat.storage.index import Part, Row
from diffeat.storage.shard import ShardReader


@dataclass
class VerifyReport:
    """The outcome of :meth:`FeatureStore.verify`; ``problems`` is empty when all is well."""

    pictures: int = 0
    maps: int = 0
    shards: int = 0
    size: int = 0
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = f"{self.pictures} pictures, {self.maps} maps, {self.shards} shards, {readable(self.size)}"
        if not self.problems:
            return f"Everything is whole: {counts}."
        found = "\n".join(f"  - {problem}" for problem in self.problems)
        return f"{len(self.problems)} problems ({counts} looked at):\n{found}"


def check_shard(path: Path, part: Part, recipe_hash: str, report: VerifyReport) -> None:
    """Read a whole shard, compare it with its part of the index, and add what was found to the report."""
    report.shards += 1
    report.maps += len(part.rows)
    report.pictures += len({row.row for row in part.rows})
    if part.recipe_hash != recipe_hash:
        report.problems.append(f"{path.name}: made by another recipe ({part.recipe_hash[:12]})")
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        report.problems.append(f"{path.name}: cannot be read ({error.strerror})")
        return
    report.size += size
    if size != part.size:
        report.problems.append(f"{path.name}: {size} bytes, the index says {part.size}")
        return
    if digest != part.sha256:
        report.problems.append(f"{path.name}: the contents have changed since they were written")
        return
    try:
        reader = ShardReader(path)
        for row in part.rows:
            problem = _check_map(reader, row)
            if problem:
                report.problems.append(f"{path.name}: {row.image} {row.activation}: {problem}")
    except DiffeatError as error:
        report.problems.append(str(error))


def _check_map(reader: ShardReader, row: Row) -> str:
    values = reader.read(row)
    if tuple(values.shape) != (row.channels, row.height, row.width):
        return f"shape {tuple(values.shape)}, the index says {(row.channels, row.height, row.width)}"
    if not torch.isfinite(values).all():
        return "NaN or infinite values"
    if values.numel() and (values.min().item(), values.max().item()) != (row.minimum, row.maximum):
        return "the range of values differs from the index"
    return ""


def listing(path: Path, recipe_hash: str, dtype: str, parts: Sequence[Part], most: int = 20) -> str:
    """A table of the activations and one of the pictures."""
    rows = [row for part in parts for row in part.rows]
    by_name: dict[str, list[Row]] = {}
    by_picture: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        by_name.setdefault(row.activation, []).append(row)
        by_picture.setdefault((row.shard, row.row), []).append(row)
    total = readable(sum(part.size for part in parts))
    lines = [
        f"{path}",
        f"{len(by_picture)} pictures · {len(rows)} maps · {len(parts)} shards · {total} · {dtype}",
        f"recipe {recipe_hash[:12]}",
    ]
    if rows:
        activations = [
            (name, _span(r.channels for r in found), _grids(found), _range(found), readable(_bytes(found)))
            for name, found in by_name.items()
        ]
        lines += ["", *_table(("activation", "channels", "grid h×w", "values", "size"), activations, "lrllr")]
        pictures = [
            (found[0].image, found[0].key[:12], _grids(found), found[0].shard, readable(_bytes(found)))
            for found in by_picture.values()
        ]
        lines += ["", *_table(("picture", "key", "grid h×w", "shard", "size"), pictures[:most], "llllr")]
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
