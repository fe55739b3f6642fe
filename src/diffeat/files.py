"""Files that a user names: read where they are regular and of a sane size, written where nothing of his is lost.

What is to be written is checked before the work that leads to it, by the same function that the writing goes through.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffeat.errors import InvalidValueError, shown

if TYPE_CHECKING:
    from PIL.Image import Image

#: Endings of pictures that are written.
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
#: Endings of recipes that are written.
RECIPES = (".yaml", ".yml")
_FORMATS = {".jpg": "JPEG", ".tif": "TIFF"}
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


def read_text(path: str | os.PathLike[str], what: str, most: int = 2**20) -> str:
    """The text of a regular UTF-8 file.

    Args:
        what: The file is, for messages: ``"recipe file"``.
        most: Bytes that it may have.

    Raises:
        InvalidValueError: There is no such file, or it is of another kind, too large, unreadable or no text.
    """
    name = f"{what} {shown(os.fspath(path))}"
    try:
        kind = os.stat(path).st_mode
        if not stat.S_ISREG(kind):
            raise InvalidValueError(f"The {name} is {_KINDS.get(stat.S_IFMT(kind), 'a device')}, not a file.")
        with open(path, "rb") as file:
            data = file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise InvalidValueError(f"There is no {name}.") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise InvalidValueError(f"The {name} cannot be read: {_reason(error)}.") from None
    if len(data) > most:
        raise InvalidValueError(f"The {name} is larger than {most / 2**20:g} MiB, the most that is read.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"The {name} is not UTF-8 text (byte {error.start}).") from None


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
