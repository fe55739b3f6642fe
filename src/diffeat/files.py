"""Files that a user names: read where they are regular and of a sane size, written where nothing of his is lost.

What is to be written is checked before the work that leads to it, by the same function that the writing goes through.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffeat.errors import InvalidValueError, clipped, did_you_mean, shown

if TYPE_CHECKING:
    from PIL.Image import Image

#: Endings of pictures that are written.
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
#: Endings of recipes that are written.
RECIPES = (".yaml", ".yml")
_FORMATS = {".jpg": "JPEG", ".tif": "TIFF"}
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def open_regular(path: str | os.PathLike[str]) -> io.BufferedReader:
    """Open a file for reading bytes, if it is one: a pipe or a device could keep us waiting for ever.

    Raises:
        OSError: It cannot be read, or is a pipe, a device, a socket or a folder; ``strerror`` says which.
    """
    try:
        _check_regular(os.stat(path).st_mode, path)  # opening a device can do something
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error), os.fspath(path)) from None
    try:
        _check_regular(os.fstat(descriptor).st_mode, path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(mode: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(stat.S_IFMT(mode), 'a device')}, not a file", os.fspath(path))


def read_bytes(path: str | os.PathLike[str], what: str, most: int = 2**20) -> bytes:
    """All bytes of a regular file.

    Args:
        what: The file is, for messages: ``"recipe file"``.
        most: Bytes that it may have.

    Raises:
        InvalidValueError: There is no such file, or it is of another kind, too large or unreadable.
    """
    name = f"{what} {shown(os.fspath(path))}"
    try:
        with open_regular(path) as file:
            data = file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidValueError(f"There is no {name}.") from None
    except OSError as error:
        raise InvalidValueError(f"The {name} cannot be read: {_reason(error)}.") from None
    if len(data) > most:
        raise InvalidValueError(f"The {name} is larger than {most / 2**20:g} MiB, the most that is read.")
    return data


def read_text(path: str | os.PathLike[str], what: str, most: int = 2**20) -> str:
    """The text of a regular UTF-8 file; arguments and errors as of :func:`read_bytes`, and it may be no text."""
    data = read_bytes(path, what, most)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidValueError(f"The {what} {shown(os.fspath(path))} is not UTF-8 text in line {line}.") from None


def read_rows(
    path: str | os.PathLike[str], what: str, columns: Sequence[str], most: int = 2**30
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header line, each with its line number.

    Args:
        columns: Those that it must have.

    Raises:
        InvalidValueError: As :func:`read_text`; or it lacks a column, or a row has not as many cells as the header.
    """
    reader = csv.reader(io.StringIO(read_text(path, what, most), newline=""), strict=True)
    name, rows = f"The {what} {shown(os.fspath(path))}", []
    try:
        header = next(reader, [])
        for column in columns:
            if header.count(column) != 1:
                has = clipped(", ".join(header)) or "none"
                raise InvalidValueError(
                    f"{name} needs one column {column!r}; it has {has}. "
                    f"{did_you_mean(column, [title[:40] for title in header])}".rstrip()
                )
        for cells in filter(None, reader):
            if len(cells) != len(header):
                raise InvalidValueError(
                    f"{name}, line {reader.line_num}, has {len(cells)} cells, but there are {len(header)} columns (a "
                    "comma inside a text needs quotes around it)."
                )
            rows.append((reader.line_num, dict(zip(header, cells, strict=True))))
    except csv.Error as error:
        raise InvalidValueError(f"{name}, line {reader.line_num}: {error}.") from None
    return rows


def text_rows(path: str | os.PathLike[str], what: str) -> list[tuple[str, str, str]]:
    """Where it stands, a picture, and its text: of a CSV file with the columns ``image`` and ``prompt``, or of a JSON
    file ``{image: text}``, which is told by its ending.

    Raises:
        InvalidValueError: As :func:`read_rows`; or it is no such JSON.
    """
    name = f"The {what} {shown(os.fspath(path))}"
    if Path(path).suffix.lower() != ".json":
        rows = read_rows(path, what, ("image", "prompt"), most=2**28)
        return [(f"{name}, line {line}", row["image"], row["prompt"]) for line, row in rows]
    text = read_text(path, what, most=2**28)
    try:
        pairs = json.loads(text, object_pairs_hook=tuple)  # a dictionary would keep the last of two texts
    except (ValueError, RecursionError) as error:
        raise InvalidValueError(f"{name} is not JSON: {error}") from None
    if not isinstance(pairs, tuple) or not all(isinstance(text, str) for _, text in pairs):
        raise InvalidValueError(f"{name} must map each image to its text.")
    return [(name, image, text) for image, text in pairs]


def read_texts(path: str | os.PathLike[str], what: str = "caption file") -> dict[str, str]:
    """Texts by picture, of a file as :func:`text_rows` reads it.

    Raises:
        InvalidValueError: As there; it is of another kind, or gives a picture two texts.
    """
    if Path(path).suffix.lower() not in (".csv", ".json"):
        raise InvalidValueError(
            f"The {what} {shown(os.fspath(path))} must be a .csv file (image,prompt) or a .json file ({{image: text}})."
        )
    texts: dict[str, str] = {}
    for place, image, text in text_rows(path, what):
        if texts.setdefault(image, text) != text:
            raise InvalidValueError(f"{place}: {shown(image)} has two texts.")
    return texts


def new_file(path: str | os.PathLike[str], endings: Sequence[str] = (), *, force: bool = False) -> Path:
    """Check that a file can be written, without writing it.

    Args:
        endings: That its name may have, in lower case.
        force: Whether a file of that name may be replaced.

    Returns:
        The path.

    Raises:
        InvalidValueError: It is there already, is no file, has another ending, or cannot lie there.
    """
    file = Path(path)
    if endings and file.suffix.lower() not in endings:
        raise InvalidValueError(f"The name {shown(str(file))} must end in one of: {', '.join(endings)}.")
    new_folder(file.parent, [file.name], force=force)
    return file


def new_folder(folder: str | os.PathLike[str], names: Iterable[str] = (), *, force: bool = False) -> Path:
    """Check that files can be written into a folder, which is there or can be made, without writing them.

    Args:
        names: Of the files, and of the folders in it that are filled: these end in ``/``.
        force: Whether those that are there already may be replaced.

    Returns:
        The path of the folder.

    Raises:
        InvalidValueError: One of them is there already, or cannot be written.
    """
    root, names = Path(folder), list(names)
    try:
        above = next(p for p in (root, *root.parents) if _kind(p) is not None)
        if not above.is_dir():
            raise InvalidValueError(f"{shown(str(above))} is not a folder, so nothing can be written into it.")
        if not os.access(above, os.W_OK | os.X_OK):
            raise InvalidValueError(f"There is no permission to write into {shown(str(above))}.")
        for name in (*root.relative_to(above).parts, *names):
            _kind(above / name)  # raises where no file can have that name
        present = [name for name in names if _is_there(root / name, folder=name.endswith("/"))]
    except (OSError, ValueError) as error:
        if isinstance(error, InvalidValueError):
            raise
        raise InvalidValueError(f"Nothing can be written to {shown(str(root))}: {_reason(error)}.") from None
    if present and not force:
        more = f" (and {len(present) - 1} more)" if len(present) > 1 else ""
        raise InvalidValueError(
            f"{shown(str(root / present[0]))}{more} is there already. Choose another --out, or give --force to write "
            "over it (force=True in Python)."
        )
    return root


def write_files(
    folder: str | os.PathLike[str], names: Sequence[str], contents: Sequence[str | bytes], *, force: bool = False
) -> Path:
    """Write files into a folder, which is made if missing; each is complete or absent.

    Returns:
        The path of the last.

    Raises:
        InvalidValueError: As :func:`new_folder`.
    """
    root = new_folder(folder, names, force=force)
    root.mkdir(parents=True, exist_ok=True)
    part = root / f".tmp-{os.getpid()}"
    try:
        for name, content in zip(names, contents, strict=True):
            part.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
            os.replace(part, root / name)
    finally:
        part.unlink(missing_ok=True)
    return root / names[-1]


def write_picture(picture: Image, path: str | os.PathLike[str], *, force: bool = False, **options: Any) -> Path:
    """Write a picture in the format of its name.

    Args:
        options: Of Pillow.

    Raises:
        InvalidValueError: As :func:`new_file`, or the format cannot hold the picture.
    """
    file, buffer = new_file(path, PICTURES, force=force), io.BytesIO()
    try:
        picture.save(buffer, _FORMATS.get(file.suffix.lower(), file.suffix[1:]), **options)
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"The picture cannot be written to {shown(str(file))}: {error}.") from None
    return write_files(file.parent, [file.name], [buffer.getvalue()], force=force)


def _kind(path: Path) -> int | None:
    """The kind of what is there, links themselves included; ``None`` if nothing is."""
    try:
        return stat.S_IFMT(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_there(path: Path, folder: bool) -> bool:
    """
    Raises:
        InvalidValueError: Something of another kind is there.
    """
    kind = _kind(path)
    if kind is None or kind == stat.S_IFLNK:
        return kind is not None
    if kind != (stat.S_IFDIR if folder else stat.S_IFREG):
        raise InvalidValueError(f"{shown(str(path))} is {_KINDS.get(kind, 'a device')}, which is not written over.")
    return not folder or next(path.iterdir(), None) is not None


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def size_and_time(file: str | os.PathLike[str]) -> tuple[int, int]:
    """Bytes, and nanoseconds of the last change: what tells a file from what it was, without reading it.

    Raises:
        OSError: There is no such file.
    """
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns
