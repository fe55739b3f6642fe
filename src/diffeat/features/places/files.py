"""Files of this machine, and files elsewhere by their URL (through ``fsspec``: s3, gs, http, memory, zip …)."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from posixpath import normpath, relpath
from typing import TYPE_CHECKING, BinaryIO, cast

from PIL import Image

from diffeat.errors import ImageError, did_you_mean
from diffeat.features.places.where import MOST, Fetched, File, reason
from diffeat.files import open_regular
from diffeat.geometry import file_digest, open_image

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

#: Bytes of a file that would be read to be named; a larger one would never be decoded.
LARGEST_FILE = 16e9
#: Bytes of a local file that is read as a whole, to be hashed and decoded at once.
_WHOLE = 1 << 26
_URL = re.compile(r"([a-z][a-z0-9+.-]*)(?:://|::)")


@dataclass(frozen=True)
class LocalFile(File):
    """A file of this machine."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def stream(self) -> BinaryIO:
        try:
            return open_regular(self.path)
        except FileNotFoundError as error:
            raise ImageError(f"{self}: no such file.") from error
        except OSError as error:
            raise ImageError(f"{self}: cannot read the file ({reason(error)}).") from error

    def read(self) -> bytes:
        with self.stream() as file:
            return file.read()

    def open(self) -> tuple[Image.Image, str | None]:
        with self.stream() as file:
            data = file.read(_WHOLE + 1)
        if not 0 < len(data) <= _WHOLE:
            return open_image(self.path), None
        return Fetched(str(self), data).open()

    def digest(self) -> str | None:
        return file_digest(self.path, LARGEST_FILE)

    def stamp(self) -> str | None:
        try:
            status = os.stat(self.path)
        except (OSError, ValueError):
            return None
        return f"{status.st_size}-{status.st_mtime_ns}"

    def check(self) -> None:
        if not os.path.isfile(self.path):
            reason = "is no regular file" if os.path.exists(self.path) else "does not exist"
            raise ImageError(f"The picture {str(self.path)!r} {reason}.")


@dataclass(frozen=True)
class RemoteFile(File):
    """A file by its URL, as messages and names have it."""

    system: AbstractFileSystem
    path: str
    url: str

    def __str__(self) -> str:
        return self.url

    def stream(self) -> BinaryIO:
        try:
            return cast(BinaryIO, self.system.open(self.path, "rb"))
        except Exception as error:
            raise unreachable(self.url, error) from error

    def read(self) -> bytes:
        try:
            if (size := self.system.size(self.path)) and size > MOST:
                raise ImageError(f"{self.url}: {size / 1e9:.1f} GB are not read as a picture.")
            return cast(bytes, self.system.cat_file(self.path))
        except Exception as error:
            raise unreachable(self.url, error) from error

    def stamp(self) -> str | None:
        try:
            info = self.system.info(self.path)
        except Exception:
            return None
        marks = [str(info[key]) for key in ("ETag", "etag", "LastModified", "mtime", "created") if info.get(key)]
        return hashlib.sha256(f"{info.get('size')} {marks}".encode()).hexdigest()[:16] if marks else None


def is_url(text: str) -> bool:
    """Whether a file is given by its URL: ``s3://bucket/a.jpg``, ``zip://a.jpg::photos.zip``."""
    return _URL.match(text) is not None and not os.path.exists(text)


def file_at(address: str | os.PathLike[str]) -> File:
    """The file of a path or URL, without opening it; ImageError if there is no way to its file system."""
    text = os.fspath(address)
    if not is_url(text):
        return LocalFile(Path(text))
    system, path = system_of(text)
    return LocalFile(Path(path)) if is_local(system) else RemoteFile(system, path, text)


def is_local(system: AbstractFileSystem) -> bool:
    protocol = system.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def system_of(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it; ImageError if it cannot be reached, or lacks a package."""
    from fsspec import available_protocols
    from fsspec.core import url_to_fs

    for scheme in (part.split("://")[0] for part in url.split("::")):
        if "/" not in scheme and scheme not in available_protocols() and "://" in url:
            near = did_you_mean(scheme, available_protocols()) or "Known are s3, gs, http, zip, memory and others."
            raise ImageError(f"{url}: no file system is called {scheme!r}. {near}")
    try:
        return url_to_fs(url)
    except ImportError as error:
        scheme = url.split("://")[0].split("::")[-1]
        package = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}.get(scheme)
        fix = f"pip install {package}" if package else reason(error)
        raise ImageError(f"{url}: a package is missing to read this ({fix}).") from error
    except Exception as error:
        raise unreachable(url, error) from error


def unreachable(url: str, error: BaseException) -> ImageError:
    """What a file system's exception means, in one line."""
    if isinstance(error, ImageError):
        return error
    kind = type(error).__name__
    if isinstance(error, FileNotFoundError):
        return ImageError(f"{url}: no such file.")
    if "Credentials" in kind or "Token" in kind:
        return ImageError(
            f"{url}: there are no credentials for it. Set them in the environment (s3: AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE); a public bucket needs FSSPEC_S3_ANON=True."
        )
    if isinstance(error, PermissionError):
        return ImageError(f"{url}: no permission to read it ({reason(error)}). Check the credentials.")
    return ImageError(f"{url}: cannot be read ({kind}: {reason(error)}).")


def folder_of(address: str) -> str:
    if not is_url(address):
        return os.path.dirname(address)
    head, chain, rest = address.partition("::")
    parent = head.rstrip("/").rpartition("/")[0]
    return (parent if not parent.endswith("/") else head) + chain + rest


def joined(folder: str, path: str) -> str:
    """A path in a folder, or a path or URL that is whole by itself.

    Example:
        >>> joined("s3://bucket/lists", "cats/1.jpg"), joined("lists", "s3://bucket/1.jpg"), joined("", "1.jpg")
        ('s3://bucket/lists/cats/1.jpg', 's3://bucket/1.jpg', '1.jpg')
    """
    if is_url(path) or not is_url(folder):
        return path if is_url(path) else os.path.join(folder, path)
    head, chain, rest = folder.partition("::")
    return f"{head.rstrip('/')}/{normpath('/' + path)[1:]}{chain}{rest}"


def relative(path: str, folder: str) -> str | None:
    """A path or URL in a folder, relative to it; ``None`` where it does not lie in it.

    Example:
        >>> relative("s3://bucket/cats/1.jpg", "s3://bucket"), relative("a/b/../1.jpg", "a"), relative("1.jpg", "a")
        ('cats/1.jpg', '1.jpg', None)
    """
    if is_url(path) != is_url(folder):
        return None
    if not is_url(path):
        inner = PurePath(os.path.relpath(os.path.abspath(path), os.path.abspath(folder or "."))).as_posix()
    else:
        (head, _, rest), (above, _, same) = path.partition("::"), folder.partition("::")
        (scheme, _, inner), (scheme_above, _, above) = head.partition("://"), above.partition("://")
        if scheme != scheme_above or rest != same:
            return None
        inner = relpath("/" + inner, "/" + above)
    return None if inner.split("/")[0] == ".." else inner


def file_beside(file: File, path: str) -> File:
    """The file that another one names, relative to its own folder. Raises as :func:`file_at`."""
    return file_at(joined(folder_of(str(file)), path))
