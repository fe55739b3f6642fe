"""Files that name the classes of label maps: one class a line, with the number or the colour that stands for it.

A line is a name, with a number before it (``7 road``, ``7: road``), or with a colour before or after it
(``128 64 128 road``, ``road,128,64,128``, ``#804080 road``). Without a number, the first class is 0, the next 1. JSON
files map numbers to names (``{"0": "road"}``). A class called void, ignore or unlabelled does not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffeat.datasets.coding import IGNORE, Coding, Colour, colour_map
from diffeat.datasets.pairs import read_list
from diffeat.errors import DatasetError, DiffeatError, InvalidValueError, did_you_mean, shown

NAMES = (
    "classes.txt",
    "labels.txt",
    "label_colors.txt",
    "class_dict.csv",
    "codes.txt",
    "class_names.txt",
    "id2label.json",
)
_VOID = re.compile(r"(?i)^(void|ignored?|unlabell?ed|don'?t care|other/?ignore)$")
_HEX = re.compile(r"^#([0-9a-fA-F]{6})$")


@dataclass(frozen=True)
class Entry:
    """A class of a file: the number that stands for it in masks, its name and, where there is one, its colour."""

    number: int
    name: str
    colour: Colour | None = None


@dataclass(frozen=True)
class ClassList:
    """Names and colours of labels, and what masks of them mean."""

    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    coding: Coding


def read_class_list(path: Path, void: str | None = None) -> ClassList:
    """The classes of a file.

    Args:
        void: What does not count, as :func:`class_list` has it.

    Raises:
        DatasetError: The file cannot be read, names no class, or names a number or a colour twice.
        InvalidValueError: ``void`` is neither a number nor the name of a class.
    """
    try:
        text = read_list(path)
        entries = _of_json(text) if path.suffix == ".json" else _of_lines(text)
    except (DiffeatError, ValueError, RecursionError) as error:
        raise DatasetError(f"The classes of {path} cannot be read: {error}") from None
    if not entries:
        raise DatasetError(f"{path} names no class.")
    for what in ("number", "name", "colour"):
        values = [getattr(e, what) for e in entries if getattr(e, what) is not None]
        if twice := next((v for k, v in enumerate(values) if v in values[:k]), None):
            raise DatasetError(f"{path} has the {what} {shown(str(twice))} twice.")
    return class_list(entries, void)


def class_list(entries: Sequence[Entry], void: str | None = None, palette: Sequence[Colour] = ()) -> ClassList:
    """Classes with the coding of their masks.

    Args:
        void: Numbers, colours (#rrggbb) or names that do not count, with commas; ``none`` for none. 255 by default.
        palette: Colours by number, for classes without.

    Raises:
        InvalidValueError: ``void`` is neither a number nor the name of a class.
    """
    numbers, colours, names = _void(void, [e.name for e in entries])
    kept, dropped = [], []
    for entry in entries:
        out = entry.number in numbers or entry.colour in colours or entry.name in names or _VOID.match(entry.name)
        (dropped if out else kept).append(entry)
    if not kept:
        raise InvalidValueError("No class is left that counts; see void.")
    own = palette or colour_map()
    table = [(e.colour, label) for label, e in enumerate(kept) if e.colour]
    table += [(c, IGNORE) for c in (*colours, *(e.colour for e in dropped)) if c and table]
    coding = Coding(
        tuple((e.number, label) for label, e in enumerate(kept)),
        tuple(dict(table).items()),
        tuple(sorted({*numbers, *(e.number for e in dropped)})),
    )
    shades = tuple(e.colour or own[e.number % len(own)] for e in kept)
    return ClassList(tuple(e.name for e in kept), shades, coding)


def _void(text: str | None, names: Sequence[str]) -> tuple[set[int], set[Colour], set[str]]:
    numbers, colours, called = set[int](), set[Colour](), set[str]()
    for part in filter(None, (p.strip() for p in (text or str(IGNORE)).split(","))):
        if part.lstrip("-").isdecimal():
            numbers.add(int(part))
        elif found := _HEX.match(part):
            colours.add(_hex(found[1]))
        elif part in names:
            called.add(part)
        elif part != "none":
            raise InvalidValueError(
                f"void is {shown(part)}, which is no number, no colour (#rrggbb), no class and not 'none'. "
                f"{did_you_mean(part, names)}".rstrip()
            )
    return numbers, colours, called


def _hex(text: str) -> Colour:
    return int(text[:2], 16), int(text[2:4], 16), int(text[4:], 16)


def _of_json(text: str) -> list[Entry]:
    data = json.loads(text)
    if isinstance(data, list):
        return [Entry(k, str(name)) for k, name in enumerate(data)]
    if not isinstance(data, dict):
        raise ValueError("a table of numbers and names is wanted")
    return [Entry(int(number), str(name)) for number, name in data.items()]


def _of_lines(text: str) -> list[Entry]:
    lines = [line.strip() for line in text.splitlines()]
    entries: list[Entry] = []
    for line in filter(None, lines):
        words = [word for word in re.split(r"[,;\t]|\s(?=\S)" if "," not in line else r",", line) if word.strip()]
        words = [word.strip() for word in words]
        if not entries and {w.lower() for w in words} >= {"name", "r"}:
            continue  # the header of a table
        entries.append(_entry(words, len(entries)))
    return entries


def _entry(words: Sequence[str], position: int) -> Entry:
    number, colour = position, None
    if found := _HEX.match(words[0]):
        words, colour = words[1:], _hex(found[1])
    elif len(words) > 3 and _all_bytes(words[:3]):
        words, colour = words[3:], _colour(words[:3])
    elif len(words) > 1 and words[0].rstrip(":").isdecimal():
        words, number = words[1:], int(words[0].rstrip(":"))
    if colour is None and len(words) > 3 and _all_bytes(words[-3:]):
        words, colour = words[:-3], _colour(words[-3:])
    if not words:
        raise ValueError("a line has a colour and no name")
    return Entry(number, " ".join(words), colour)


def _all_bytes(words: Iterable[str]) -> bool:
    return all(word.isdecimal() and len(word) < 4 and int(word) < 256 for word in words)


def _colour(words: Sequence[str]) -> Colour:
    red, green, blue = map(int, words)
    return red, green, blue
