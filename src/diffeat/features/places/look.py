"""Every picture that a path or URL stands for: of a file, a folder, a glob, a list of these, or a file that holds many.

:data:`PLACES` are the kinds of files that hold many; a kind is told by its ending. What is asked for twice is found
twice; what cannot be used is a picture that says so when it is opened.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from posixpath import splitext
from typing import TYPE_CHECKING, TypeVar

from diffeat.errors import ImageError
from diffeat.features.places.archives import Tar, Zip, with_text
from diffeat.features.places.files import (
    LocalFile,
    RemoteFile,
    file_at,
    folder_of,
    is_local,
    is_url,
    joined,
    relative,
    system_of,
    unreachable,
)
from diffeat.features.places.tables import Rows, Table, text_of
from diffeat.features.places.videos import Video
from diffeat.features.places.where import Broken, File, Found, Passed, Place, Wanted, once
from diffeat.geometry import find_images
from diffeat.geometry.files import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")

#: Kinds of files that hold many pictures.
PLACES: tuple[type[Place], ...] = (Tar, Zip, Table, Rows, Video)
#: Endings of lists: a path or URL in each line, relative to the list; empty lines and those after # are passed over.
LISTS = (".txt", ".lst")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")


def place_of(path: str) -> type[Place] | None:
    """The kind of a file that holds many pictures, by its name."""
    name = path.partition("::")[0].lower()
    return next((place for place in PLACES if name.endswith(place.endings)), None)


def look(given: str | os.PathLike[str], wanted: Wanted | None = None) -> Iterator[Found | Passed]:
    """The pictures at a path or URL, in a fixed order."""
    return _look(os.fspath(given), wanted or Wanted(), ())


def _look(text: str, wanted: Wanted, lists: tuple[str, ...]) -> Iterator[Found | Passed]:
    try:
        for file, root in _files(text):
            if isinstance(file, Passed):
                yield file
            elif (name := str(file)).lower().endswith(LISTS):
                yield from _list(file, root, wanted, (*lists, name))
            elif (place := place_of(name)) is not None:
                yield from _inside(file, root, place, wanted)
            else:
                _, where, words = with_text(
                    name, file, splitext(name)[0], partial(_beside, file), wanted.caption_column
                )
                yield Found(name, root, where, words, ("caption_column",))
    except ImageError as error:
        yield Found(text, folder_of(text), Broken(str(error)))


def _files(text: str) -> Iterator[tuple[File | Passed, str]]:
    """Files, each with the folder that names are relative to."""
    if not is_url(text):
        if os.path.isdir(text):
            yield from _folder(text, text)
        elif os.path.lexists(text) or not _is_pattern(text):
            yield LocalFile(Path(text)), os.path.dirname(text)
        else:
            hits = sorted({hit for pattern in _braces(text) for hit in glob.glob(pattern, recursive=True)})
            for hit in hits:
                if not os.path.isdir(hit):
                    yield LocalFile(Path(hit)), _fixed(text)
                elif "**" not in text:  # which finds what is in it, too
                    yield from _folder(hit, _fixed(text))
            if not hits:
                raise ImageError(f"No file is found by the pattern {text!r}.")
        return
    system, path = system_of(text)
    if is_local(system) and "::" not in text:
        yield from _files(path)
    elif _is_pattern(path):
        hits = sorted({str(hit) for pattern in _braces(path) for hit in _asked(text, partial(system.glob, pattern))})
        yield from ((_remote(system, hit, text), _fixed(text)) for hit in hits)
        if not hits:
            raise ImageError(f"No file is found by the pattern {text!r}.")
    elif _is_file(text) or not _asked(text, partial(system.isdir, path)):
        yield file_at(text), folder_of(text)
    else:
        found = sorted(str(hit) for hit in _asked(text, partial(system.find, path)))
        for file in (_remote(system, hit, text) for hit in found):
            hidden = any(part.startswith(".") for part in (relative(str(file), text) or "").split("/"))
            if hidden or splitext(file.path)[1].lower() not in IMAGE_SUFFIXES:
                yield _passed(str(file), "hidden file" if hidden else "not a picture by its name"), text
            else:
                yield file, text
        if not found:
            raise ImageError(f"There is nothing at {text}.")


def _folder(folder: str, root: str) -> Iterator[tuple[File | Passed, str]]:
    found = find_images(folder)
    yield from ((LocalFile(path), root) for path in found)
    yield from ((_passed(str(path), reason), root) for path, reason in found.skipped)


def _passed(path: str, reason: str) -> Passed:
    kind = "list" if path.lower().endswith(LISTS) else place.what if (place := place_of(path)) else None
    if kind and reason.startswith("not a picture"):
        reason += f"; a {kind} is read where it is given itself, or by a glob"
    return Passed(path, reason)


def _inside(file: File, root: str, place: type[Place], wanted: Wanted) -> Iterator[Found]:
    """The pictures of a file that holds many; where it cannot be read to its end, one more that says so."""
    base = str(file) if place.inside else folder_of(str(file))
    try:
        for name, where, words in once(file, place.pictures(file, wanted)):
            yield Found(joined(base, name), root, where, words, place.options)
    except ImageError as error:
        yield Found(str(file), root, Broken(str(error)), None, place.options)


def _list(file: File, root: str, wanted: Wanted, lists: tuple[str, ...]) -> Iterator[Found | Passed]:
    """What the lines of a list stand for."""
    folder, lines = folder_of(str(file)), text_of(file).splitlines()
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        there = joined(folder, line)
        if there in lists:
            raise ImageError(f"{file}, line {number}: the list names itself.")
        for found in _look(there, wanted, lists):
            if isinstance(found, Found):
                inside = relative(found.path, folder) is not None
                found = replace(found, root=root if inside else found.root)
                try:
                    found.where.check()
                except ImageError as error:
                    found = replace(found, where=Broken(f"{file}, line {number}: {error}"))
            yield found
    if not any(line.strip() for line in lines):
        raise ImageError(f"{file}: the list is empty.")


def _beside(file: File, name: str) -> bytes | None:
    try:
        return file_at(name).read()
    except ImageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise


def _remote(system: AbstractFileSystem, path: str, given: str) -> RemoteFile:
    """A file that was found by a URL."""
    parts = given.split("::")
    here = next(i for i, part in enumerate(parts) if "://" in part)
    scheme = parts[here].split("://")[0]
    parts[here] = path if "://" in path else f"{scheme}://{path.lstrip('/')}"
    return RemoteFile(system, path, "::".join(parts))


def _asked(url: str, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except Exception as error:
        raise unreachable(url, error) from error


def _is_file(url: str) -> bool:
    """Whether a URL's name says so; asking would cost a request for each."""
    head = url.partition("::")[0].lower()
    return place_of(url) is not None or head.endswith((*LISTS, *IMAGE_SUFFIXES))


def _is_pattern(text: str) -> bool:
    web = text.startswith(("http://", "https://"))  # where a question mark begins a query
    return any(c in text for c in ("*" if web else "*?[")) or _BRACES.search(text) is not None


def _fixed(pattern: str) -> str:
    """The folder in front of the first part of a path that is a pattern."""
    head, chain, rest = pattern.partition("::")
    scheme, colon, path = head.partition("://") if is_url(pattern) else ("", "", head)
    parts = path.split("/")
    here = next((i for i, part in enumerate(parts) if _is_pattern(part) or "{" in part), len(parts) - 1)
    return scheme + colon + ("/".join(parts[:here]) or ("/" if path.startswith("/") else "")) + chain + rest


def _braces(pattern: str) -> Iterator[str]:
    """A pattern for each of the choices in braces.

    Example:
        >>> list(_braces("a-{08..10}.{tar,zip}"))[:3]
        ['a-08.tar', 'a-08.zip', 'a-09.tar']
    """
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    first, last, choices = match.groups()
    each = choices.split(",") if choices else (f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1))
    for choice in each:
        yield from _braces(pattern[: match.start()] + choice + pattern[match.end() :])
