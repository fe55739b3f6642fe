"""Pairs of pictures with points known in both: what every correspondence dataset is read into."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from diffeat.datasets.card import Samples
from diffeat.errors import DatasetError

Points = tuple[tuple[float, float], ...]
Box = tuple[float, float, float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class PointPair:
    """Two pictures and the points that they share.

    Attributes:
        name: Of the pair.
        source: Picture file the points are given in.
        target: Picture file the points are looked for in.
        source_points: (x, y) pixel indices, in the order of ``target_points``.
        target_points: Likewise; may lie slightly outside, as some annotations do.
        category: ``""`` where there are none.
        source_box: (left, top, right, bottom) of the object.
        target_box: Likewise.
        source_size: (width, height) of the picture as annotated, where the dataset says.
        target_size: Likewise.
        keypoints: Names of the points.
        attributes: What else the dataset says (viewpoint, occlusion …).
    """

    name: str
    source: Path
    target: Path
    source_points: Points
    target_points: Points
    category: str = ""
    source_box: Box | None = None
    target_box: Box | None = None
    source_size: tuple[int, int] | None = None
    target_size: tuple[int, int] | None = None
    keypoints: tuple[str, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.source_points) != len(self.target_points):
            raise DatasetError(
                f"Pair {self.name!r} has {len(self.source_points)} source points but "
                f"{len(self.target_points)} target points; they belong together one by one."
            )


@dataclass(frozen=True)
class PairDataset(Samples[PointPair]):
    """The pairs of one split.

    Attributes:
        name: Of the dataset, e.g. ``"spair"``.
        split: Of the dataset.
        root: Its folder.
        pairs: In the dataset's order.
        notes: What a reader of numbers must know (pairs were sampled, …).
    """

    name: str
    split: str
    root: Path
    pairs: tuple[PointPair, ...]
    notes: tuple[str, ...] = ()
    _field = "pairs"
    _word = "pairs"

    @property
    def categories(self) -> list[str]:
        """Sorted."""
        return sorted({p.category for p in self.pairs})

    def images(self) -> list[Path]:
        """Every picture once, in the order of first use."""
        return list(dict.fromkeys(path for p in self.pairs for path in (p.source, p.target)))


def check_pictures(pairs: Iterable[PointPair], name: str, page: str, root: Path) -> None:
    """Raise if a picture is missing, naming the first and counting the rest."""
    paths = dict.fromkeys(path for p in pairs for path in (p.source, p.target))
    known: dict[Path, set[str]] = {}

    def there(path: Path) -> bool:
        if path.parent not in known:
            known[path.parent] = set(os.listdir(path.parent)) if path.parent.is_dir() else set()
        return path.name in known[path.parent]

    missing = [p for p in paths if not there(p)]
    if missing:
        raise DatasetError(
            f"{name} under {root} is not complete: {len(missing)} of {len(paths)} pictures are missing, the first "
            f"is {missing[0]}. Unpack the whole archive; it comes from {page}"
        )


def need(path: Path, name: str, page: str, what: str = "") -> Path:
    """The path, if it exists.

    Raises:
        DatasetError: Naming the path, and the page the dataset comes from.
    """
    if not path.exists():
        hint = f" ({what})" if what else ""
        raise DatasetError(f"{name} needs {path}{hint}, which does not exist. {name} comes from {page}")
    return path


def parsed(path: Path, name: str, page: str, read: Callable[[Path], T]) -> T:
    """``read(path)``, with a clear error if the file is missing or damaged.

    Raises:
        DatasetError: Naming the file.
    """
    need(path, name, page)
    try:
        return read(path)
    except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise DatasetError(
            f"{name}: cannot read {path} ({type(error).__name__}: {error}). It may be half unpacked; "
            f"the dataset comes from {page}"
        ) from error
