"""Pairs of pictures with points known in both: what every correspondence dataset is read into."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from diffeat.datasets.card import Samples
from diffeat.errors import DatasetError, DiffeatError, ImageError, clipped, shown
from diffeat.files import read_text
from diffeat.geometry.images import stored_size
from diffeat.geometry.orientation import Size, is_stored, upright_point, upright_size

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
        shows: What source and target show, where that is not the pair's category: pairs across species.
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
    shows: tuple[str, str] | None = None
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


def checked(pairs: Iterable[PointPair], name: str, page: str, root: Path) -> tuple[PointPair, ...]:
    """The pairs, their points, boxes and sizes on the upright pictures.

    Raises:
        DatasetError: A picture is missing (names the first and counts the rest), or one that an EXIF tag turns does not
            tell whether its points lie on the stored or on the upright pixels.
    """
    pairs = tuple(pairs)
    paths = dict.fromkeys(path for p in pairs for path in (p.source, p.target))
    folders: dict[Path, set[str]] = {}

    def there(path: Path) -> bool:
        if path.parent not in folders:
            folders[path.parent] = set(os.listdir(path.parent)) if os.path.isdir(path.parent) else set()
        return path.name in folders[path.parent]

    missing = [p for p in paths if not there(p)]
    if missing:
        raise DatasetError(
            f"{name} under {root} is not complete: {len(missing)} of {len(paths)} pictures are missing, the first "
            f"is {missing[0]}. Unpack the whole archive; it comes from {page}"
        )
    turned: dict[Path, tuple[Size, int]] = {}
    for path in paths:
        with suppress(ImageError):  # told when it is to be read
            size, orientation = stored_size(path)
            if orientation != 1:
                turned[path] = size, orientation
    return tuple(_upright(_upright(pair, "source", turned), "target", turned) for pair in pairs) if turned else pairs


def _upright(pair: PointPair, side: str, turned: Mapping[Path, tuple[Size, int]]) -> PointPair:
    path, annotated = getattr(pair, side), getattr(pair, f"{side}_size")
    if path not in turned:
        return pair
    size, orientation = turned[path]
    if not is_stored(annotated, size, orientation, f"{path} of pair {pair.name!r}"):
        return pair
    changes: dict[str, Any] = {
        f"{side}_points": tuple(upright_point(p, size, orientation) for p in getattr(pair, f"{side}_points")),
        f"{side}_size": upright_size(size, orientation),
    }
    if (box := getattr(pair, f"{side}_box")) is not None:
        corners = [upright_point(corner, size, orientation) for corner in (box[:2], box[2:])]
        changes[f"{side}_box"] = tuple(f(v) for f in (min, max) for v in zip(*corners, strict=True))
    return replace(pair, **changes)


def as_points(rows: Iterable[Sequence[Any]]) -> Points:
    """Points of numbers or texts.

    Raises:
        ValueError: One is no pair of pixels.
    """
    return tuple((as_pixel(x), as_pixel(y)) for x, y in rows)


def as_pixel(value: Any) -> float:
    """A coordinate. Raises ValueError if it is no number, or none that a picture could have."""
    number = float(value)
    if not abs(number) < 1e6:
        raise ValueError(f"{shown(value)} is no pixel")
    return number


def beside(folder: Path, name: str) -> Path:
    """A file that a user's own list in a folder names: relative to that, or wherever it is.

    Raises:
        ValueError: No file can be called so.
    """
    if any(len(os.fsencode(part)) > 255 for part in name.split("/")):
        raise ValueError(f"{shown(name)} is too long for the name of a file")
    return Path(os.path.normpath(folder / name))


def inside(folder: Path, name: str) -> Path:
    """A file of a dataset that another of its files names.

    Raises:
        ValueError: It would lie outside of the folder, or no file can be called so.
    """
    path, root = beside(folder, name), Path(os.path.normpath(folder))
    if path == root or not path.is_relative_to(root):
        raise ValueError(f"{shown(name)} does not lie in {folder}")
    return path


def need(path: Path, name: str, page: str, what: str = "") -> Path:
    """The path, if it exists.

    Raises:
        DatasetError: Naming the path, and the page the dataset comes from.
    """
    if not os.path.exists(path):
        hint = f" ({what})" if what else ""
        raise DatasetError(f"{name} needs {path}{hint}, which does not exist. {name} comes from {page}")
    return path


def parsed(path: Path, name: str, page: str, read: Callable[[Path], T], row: str = "") -> T:
    """``read(path)``, with a clear error if the file is missing or damaged.

    Args:
        row: Which part of the file is read, for messages.

    Raises:
        DatasetError: Naming the file.
    """
    need(path, name, page)
    try:
        return read(path)
    except DatasetError:
        raise
    except Exception as error:  # damaged files raise anything
        if isinstance(error, DiffeatError):
            raise DatasetError(f"{name}: {error} The dataset comes from {page}") from error
        reason = f"{type(error).__name__}: {clipped(str(error), 200)}"
        raise DatasetError(
            f"{name}: cannot read {path}{row and f', {row}'} ({reason}). It may be half unpacked; the dataset comes "
            f"from {page}"
        ) from error


def read_list(path: Path) -> str:
    """The text of a list or table of a dataset. Raises InvalidValueError, see :func:`diffeat.files.read_text`."""
    return read_text(path, "file", most=1 << 30)


def read_json(path: Path) -> Any:
    """The content of a JSON file of a dataset; errors likewise, and ValueError."""
    return json.loads(read_list(path))


def read_lines(path: Path, read: Callable[[list[str]], T]) -> list[T]:
    """What ``read`` makes of the words of each line that has any.

    Raises:
        ValueError: Naming the line.
    """
    values = []
    for number, line in enumerate(read_list(path).splitlines(), 1):
        try:
            values += [read(words)] if (words := line.split()) else []
        except (ValueError, IndexError) as error:
            raise ValueError(f"line {number}, {shown(line)}: {error}") from None
    return values
