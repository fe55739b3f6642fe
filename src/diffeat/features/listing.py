"""Which pictures the given paths stand for, what each is called, and the text for it.

A picture is called by its path relative to the folder that was given; a lone file by its own name; a member of a file
that holds many by the name of that file and its own (``a.tar/0001.jpg``). With a root, all names are relative to that.
So a picture keeps its name wherever its folder lies and however it is spelt.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice, takewhile
from math import isfinite
from pathlib import Path
from posixpath import basename, normpath
from typing import Any, overload

from diffeat.errors import ImageError, InvalidValueError, did_you_mean, shown
from diffeat.features.picture import Picture, legible
from diffeat.features.places.files import is_url, relative
from diffeat.features.places.look import PLACES, look
from diffeat.features.places.where import Broken, Found, Wanted
from diffeat.files import text_rows

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Listing(Sequence[Picture]):
    """Pictures by name.

    Attributes:
        pictures: In the order of the paths given, those of each place in its own order.
        paths: Of the file of each, and of the member of a file that holds many: ``shards/a.tar/0001.jpg``.
        skipped: Path and reason of everything in the folders that is not a picture.
    """

    pictures: tuple[Picture, ...]
    paths: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()

    @overload
    def __getitem__(self, index: int) -> Picture: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Picture, ...]: ...
    def __getitem__(self, index: int | slice) -> Picture | tuple[Picture, ...]:
        return self.pictures[index]

    def __len__(self) -> int:
        return len(self.pictures)


def list_pictures(
    paths: AnyPath | Iterable[AnyPath],
    *,
    root: AnyPath | None = None,
    prompts: AnyPath | None = None,
    default: str | None = None,
    fps: float | None = None,
    column: str | None = None,
    caption_column: str | None = None,
    name_column: str | None = None,
) -> Listing:
    """Pictures of paths and URLs (see :mod:`diffeat.features.places.look`), named.

    A place that cannot be read, or not to its end, and a picture that is known to be none are listed as pictures that
    cannot be opened, so that they cost no other.

    Args:
        paths: Files, folders, globs, lists of these, and files that hold many pictures.
        root: The folder that names are relative to.
        prompts: A CSV file with the columns ``image`` (a name, a path, or its end where only one picture has it) and
            ``prompt``, or a JSON file ``{image: prompt}``.
        default: The text of pictures that neither ``prompts`` nor ``caption_column`` gives one, or of all without them.
        fps: Frames per second of videos; one if not given.
        column: Of tables: their pictures.
        caption_column: The text for each picture: a column of a table or list; beside files, and in tars and zips, the
            ending of the text of that name (``txt``) or a key of its ``.json``.
        name_column: Of tables: the pictures' names; numbers of rows if not given.

    Raises:
        InvalidValueError: There is no picture, two have one name, or one lies outside the root; the prompts are not
            such a file, or do not name each picture once; an option does not suit the places.
    """
    if prompts is not None and caption_column is not None:
        raise InvalidValueError("Texts come from --prompts or from --caption-column; give one of them.")
    every, skipped = _found(paths, Wanted(fps, column, caption_column, name_column))
    # before texts are looked for: a folder that is not there would be a picture without one; the first that is ends it
    _check_any(every, list(takewhile(bool, map(_fault, every))))
    names: dict[str, Found] = {}
    for found in every:
        name = _name(found, root)
        if name in names:
            raise InvalidValueError(_two(name, names[name].path, found.path))
        names[name] = found
    texts = {name: found.text for name, found in names.items() if found.text is not None}
    if prompts is not None:
        texts = read_prompts(prompts, {name: found.path for name, found in names.items()})
        if default is None:
            _check_told(str(prompts), names, texts)
    if caption_column is not None and default is None:
        _check_told(f"{caption_column!r}", names, texts)
    pictures = tuple(Picture(name, f.where, text=texts.get(name, default)) for name, f in names.items())
    return Listing(pictures, tuple(found.path for found in names.values()), tuple(skipped))


def find_pictures(paths: AnyPath | Iterable[AnyPath], **options: Any) -> tuple[list[Picture], list[str]]:
    """Likewise (``options``: fps and columns), called by their paths as given, and what cannot be read, a line each."""
    found, _ = _found(paths, Wanted(**options))
    pictures = [Picture(f.path, f.where, text=f.text) for f in found if not isinstance(f.where, Broken)]
    return pictures, [str(f.where) for f in found if isinstance(f.where, Broken)]


def _found(paths: AnyPath | Iterable[AnyPath], wanted: Wanted) -> tuple[list[Found], list[tuple[str, str]]]:
    """Each picture once, and what was passed over."""
    if wanted.fps is not None and not (isfinite(wanted.fps) and wanted.fps > 0):
        raise InvalidValueError(f"Frames per second must be above 0, got {shown(wanted.fps)}.")
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    by_path: dict[str, Found] = {}
    skipped: list[tuple[str, str]] = []
    for each in given:
        for found in look(each, wanted):
            if isinstance(found, Found):
                by_path.setdefault(found.path if is_url(found.path) else os.path.abspath(found.path), found)
            else:
                skipped.append((found.path, found.reason))
    _check(given, list(by_path.values()), skipped, wanted)
    return list(by_path.values()), skipped


def _check(given: list[AnyPath], found: list[Found], skipped: list[tuple[str, str]], wanted: Wanted) -> None:
    """Refuse places without pictures, and what is asked for and suits none."""
    if not found:
        passed = "".join(f"; {path}: {reason}" for path, reason in skipped[:3])
        more = f" ({len(skipped)} files are passed over{passed})" if skipped else ""
        raise InvalidValueError(f"There are no pictures in {', '.join(map(str, given)) or 'nothing'}{more}.")
    _check_any(found, [str(f.where) for f in found if isinstance(f.where, Broken)])
    regarded = {option for each in found for option in each.options}
    for field in fields(wanted):
        if getattr(wanted, field.name) is not None and field.name not in regarded:
            kinds = sorted({place.what for place in PLACES if field.name in place.options})
            raise InvalidValueError(
                f"--{field.name.replace('_', '-')} would be ignored: no {' or '.join(kinds)} is among the pictures."
            )


def _check_any(found: Sequence[Found], faults: Sequence[str]) -> None:
    """Refuse pictures none of which can be opened."""
    if len(faults) == len(found):
        more = f" (and {len(faults) - 1} more)" if faults[1:] else ""
        raise InvalidValueError(f"There are no pictures to be read: {faults[0]}{more}")


def _fault(found: Found) -> str:
    """Why a picture cannot be opened, as far as is told without reading; empty where it can."""
    try:
        found.where.check()
    except ImageError as error:
        return str(error)
    return ""


def _check_told(source: str, names: Mapping[str, Found], texts: Mapping[str, str]) -> None:
    missing = [name for name, found in names.items() if name not in texts and not _fault(found)]
    if missing:
        raise InvalidValueError(
            f"{source} has no text for {len(missing)} of {len(names)} pictures, the first is {missing[0]!r}. Add them, "
            "or give --prompt TEXT for those without one."
        )


def _two(name: str, one: str, other: str) -> str:
    fix = "Give one folder that holds both"
    if not is_url(one) and not is_url(other):
        parent = os.path.commonpath(os.path.abspath(path) for path in (one, other))
        parent = os.path.dirname(parent) if parent == os.path.abspath(other) else parent
        fix += f", or --root {parent}, which names are then relative to"
    return f"{one} and {other} would both be called {name!r}. {fix}."


def read_prompts(file: AnyPath, names: Mapping[str, AnyPath]) -> dict[str, str]:
    """The text for each name (with its path), from a file as :func:`~diffeat.files.text_rows` reads it."""
    by_file: dict[str, list[tuple[str, str]]] = {}
    for name, path in names.items():
        whole = legible(Path(os.path.abspath(path)).as_posix())
        by_file.setdefault(basename(whole), []).append((name, whole))
    texts: dict[str, str] = {}
    places: dict[str, str] = {}
    for place, image, text in text_rows(file, "prompt file"):
        end = normpath(image)
        alike = by_file.get(basename(end), [])
        fits = [end] if end in names else [n for n, whole in alike if f"/{whole}".endswith(f"/{end}")]
        if len(fits) > 1:
            raise InvalidValueError(f"{place}: {shown(image)} may be {fits[0]!r} or {fits[1]!r}. Write one of these.")
        if not fits:
            near = did_you_mean(image, islice(names, 1000)) or f"The first one is called {next(iter(names))!r}."
            raise InvalidValueError(f"{place}: none of the pictures is {shown(image)}. {near}")
        if texts.setdefault(fits[0], text) != text:
            raise InvalidValueError(
                f"{place}: {fits[0]!r} has another text already ({places[fits[0]]}). Keep one of them."
            )
        places.setdefault(fits[0], place)
    return texts


def _name(found: Found, root: AnyPath | None) -> str:
    """Relative to a folder; links on the way count as they are written. What is no picture takes no picture's name."""
    if isinstance(found.where, Broken):
        return legible(found.path)
    inside = relative(found.path, found.root if root is None else os.fspath(root))
    if inside is None and root is not None:
        raise InvalidValueError(f"{found.path} does not lie in the root {root}.")
    return legible(basename(found.path.partition("::")[0]) if inside is None else inside)
