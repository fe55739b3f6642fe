"""Tars, those of WebDataset above all, and zips: members are found by their headers and read where they lie."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from io import SEEK_END
from itertools import groupby
from posixpath import basename, dirname, join, normpath, splitext
from typing import BinaryIO, cast

from diffeat.errors import ImageError
from diffeat.features.places.readers import Readers
from diffeat.features.places.where import MOST, Broken, Encoded, File, Inside, Member, Place, Wanted, Where, reason
from diffeat.geometry.files import IMAGE_SUFFIXES

_UNPACK = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    OSError,
    RuntimeError,
    ValueError,
)


def _packed(file: File) -> bool:
    return splitext(str(file))[1].lower() in _UNPACK


def unpacked(file: File) -> BinaryIO:
    """The file's bytes, or what they are compressed from."""
    unpack = _UNPACK.get(splitext(str(file))[1].lower())
    return file.stream() if unpack is None else cast(BinaryIO, unpack(file.stream()))


_TARS = Readers(unpacked)
_ZIPS = Readers(lambda file: zipfile.ZipFile(file.stream()))


@dataclass(frozen=True)
class TarMember(Inside, Encoded):
    """Bytes in a tar."""

    offset: int
    size: int

    @property
    def in_order(self) -> bool:
        return _packed(self.file)

    def read(self) -> bytes:
        if self.size > MOST:
            raise ImageError(f"{self}: {self.size / 1e9:.1f} GB are not read as a picture.")
        try:
            with _TARS.of(self.file, self.mark) as tar:
                tar.seek(self.offset)
                data = tar.read(self.size)
        except _DAMAGE as error:
            raise ImageError(f"{self}: cannot be read ({reason(error)}).") from error
        if len(data) < self.size:
            raise ImageError(f"{self}: the tar is cut short, {len(data)} of the picture's {self.size} bytes are there.")
        return data

    def stamp(self) -> str | None:
        return self.mark and f"{self.mark}-{self.offset}"


@dataclass(frozen=True)
class ZipMember(Inside, Encoded):
    """Bytes in a zip."""

    size: int

    def __str__(self) -> str:
        return f"{self.file}/{_tidy(self.name)}"

    def read(self) -> bytes:
        if self.size > MOST:
            raise ImageError(f"{self}: {self.size / 1e9:.1f} GB are not read as a picture.")
        try:
            with _ZIPS.of(self.file, self.mark) as archive:
                return archive.read(self.name)
        except _DAMAGE as error:
            raise ImageError(f"{self}: cannot be read ({reason(error)}).") from error

    def stamp(self) -> str | None:
        return self.mark and f"{self.mark}-{self.name}"


class Tar(Place):
    """A WebDataset tar, or any other. Members of one sample share their name up to its first dot."""

    what = "tar (WebDataset)"
    endings = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
    options = ("caption_column",)

    @classmethod
    def pictures(cls, file: File, wanted: Wanted) -> Iterator[Member]:
        return _samples(_members(file), wanted.caption_column)


class Zip(Place):
    """A zip."""

    what = "zip"
    endings = (".zip",)
    options = ("caption_column",)

    @classmethod
    def pictures(cls, file: File, wanted: Wanted) -> Iterator[Member]:
        mark = file.stamp()
        try:
            archive = zipfile.ZipFile(file.stream())
        except _DAMAGE as error:
            raise ImageError(f"{file}: is no zip, or one that is cut short ({reason(error)}).") from error
        with archive:
            links = {m.filename for m in archive.infolist() if stat.S_ISLNK(m.external_attr >> 16)}
            members = [m for m in archive.infolist() if not m.is_dir() and m.filename not in links]
            beside = {_tidy(m.filename): m for m in members}

            def read(name: str) -> bytes | None:
                return archive.read(beside[name]) if name in beside else None

            pictures = ((_tidy(m.filename), ZipMember(file, mark, m.filename, m.file_size)) for m in members)
            for name, where in pictures:
                if _is_picture(name):
                    yield with_text(name, where, splitext(name)[0], read, wanted.caption_column)


def with_text(name: str, where: Where, stem: str, read: Callable[[str], bytes | None], column: str | None) -> Member:
    """A picture with the text beside it: of the file with the ending ``column``, or of that key in the ``.json``.

    Args:
        stem: What the names of the files beside it begin with.
        read: Gives a file's bytes, or ``None`` if there is no such file.
    """
    if column is None:
        return name, where, None
    try:
        if (data := read(f"{stem}.{column.removeprefix('.')}")) is not None:
            return name, where, data.decode("utf-8-sig").strip()
        if (data := read(f"{stem}.json")) is not None and isinstance(values := json.loads(data), dict):
            return name, where, None if values.get(column) is None else str(values[column])
    except (*_DAMAGE, ImageError) as error:
        return name, Broken(f"{where}: the text beside it cannot be read ({reason(error)})."), None
    return name, where, None


def _checked(member: TarMember, total: int | None) -> Where:
    if member.size < 0:
        return Broken(f"{member}: is a link to what is not in the tar.")
    if total is not None and member.offset + member.size > total:
        here = max(total - member.offset, 0)
        return Broken(f"{member}: the tar is cut short, {here} of the picture's {member.size} bytes are there.")
    return member


def _members(file: File) -> Iterator[tuple[str, Where]]:
    """Every file of a tar, links as what they lead to."""
    mark, name, place = file.stamp(), "its beginning", dict[str, tuple[int, int]]()
    with unpacked(file) as stream:
        try:
            total = None if _packed(file) else stream.seek(0, SEEK_END)
            stream.seek(0)
            tar = tarfile.open(fileobj=stream, mode="r:")  # noqa: SIM115 (the stream is closed)
            while (info := tar.next()) is not None:
                vars(tar)["members"].clear()  # it would keep all it has seen
                name = _tidy(info.name)
                at = info.offset_data, info.size
                if info.islnk() or info.issym():
                    target = info.linkname if info.islnk() else join(dirname(name), info.linkname)
                    at = place.get(_tidy(target), (0, -1))
                elif not info.isreg():
                    continue
                place[name] = at
                yield name, _checked(TarMember(file, mark, name, *at), total)
            stream.seek(tar.offset)
            rest = stream.read(tarfile.BLOCKSIZE)
        except _DAMAGE as error:
            raise ImageError(f"{file}: cannot be read as a tar after {name} ({reason(error)}).") from error
        if rest.strip(b"\0") or not rest:
            what = "is damaged" if rest else "is cut short, or lacks its end mark"
            raise ImageError(f"{file}: {what} after {name}; what may follow there is not read.")


def _samples(members: Iterable[tuple[str, Where]], column: str | None) -> Iterator[Member]:
    """The pictures among members, each with the text of its sample."""
    for stem, sample in groupby(members, lambda member: _stem(member[0])):
        if column is None:
            yield from ((name, where, None) for name, where in sample if _is_picture(name))
            continue
        here = dict[str, Where]()
        pictures = list[tuple[str, Where]]()
        for name, where in sample:
            here.setdefault(name, where)
            if _is_picture(name):
                pictures.append((name, where))
        read = partial(_read, here)
        yield from (with_text(name, where, stem, read, column) for name, where in pictures)


def _read(members: dict[str, Where], name: str) -> bytes | None:
    member = members.get(name)
    return member.read() if isinstance(member, TarMember) else None


def _is_picture(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/")) or name.startswith("__MACOSX/")
    return not hidden and splitext(name)[1].lower() in IMAGE_SUFFIXES


def _tidy(name: str) -> str:
    """A member's name without detours; nothing is ever unpacked, so it may say what it likes."""
    return normpath("/" + name.replace("\\", "/")).lstrip("/")


def _stem(name: str) -> str:
    folder, base = dirname(name), basename(name)
    return join(folder, base.split(".", 1)[0])
