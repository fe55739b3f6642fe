"""Which pictures the given paths stand for, what each is called, and the text for it.

A picture is called by its path relative to the folder that was given; a lone file by its own name. With a root, all
names are relative to that. So a picture keeps its name wherever its folder lies and however it is spelt.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from posixpath import basename, normpath
from typing import overload

from diffeat.errors import InvalidValueError, did_you_mean, shown
from diffeat.features.picture import Picture, legible
from diffeat.files import read_rows
from diffeat.geometry import find_images

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Listing(Sequence[Picture]):
    """Pictures by name.

    Attributes:
        pictures: In the order of the paths given, those of a folder sorted.
        paths: The file of each.
        skipped: Path and reason of everything in the folders that is not a picture.
    """

    pictures: tuple[Picture, ...]
    paths: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...] = ()

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
) -> Listing:
    """Pictures of files and folders (see :func:`~diffeat.geometry.find_images`), named.

    Args:
        paths: Files and folders.
        root: The folder that names are relative to.
        prompts: A CSV file with the columns ``image`` (a name, a path, or its end where only one picture has it) and
            ``prompt``.
        default: The text of pictures that ``prompts`` does not name, or of all without it.

    Raises:
        InvalidValueError: There is no picture, two have one name, or one lies outside the root; or the prompts are not
            such a file, or do not name each picture once.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found = find_images(given)
    if not found.images:
        passed = "".join(f"; {path}: {reason}" for path, reason in found.skipped[:3])
        more = f" ({len(found.skipped)} files are passed over{passed})" if found.skipped else ""
        raise InvalidValueError(f"There are no pictures in {', '.join(map(str, given)) or 'nothing'}{more}.")
    names: dict[str, Path] = {}
    for path, own in zip(found.images, found.roots, strict=True):
        name = _name(path, own if root is None else Path(root), root is not None)
        if name in names:
            parent = os.path.commonpath(os.path.abspath(p) for p in (names[name], path))
            parent = os.path.dirname(parent) if parent == os.path.abspath(path) else parent
            raise InvalidValueError(
                f"{names[name]} and {path} would both be called {name!r}. Give one folder that holds both, or --root "
                f"{parent}, which names are then relative to."
            )
        names[name] = path
    texts = {} if prompts is None else read_prompts(prompts, names, complete=default is None)
    pictures = tuple(Picture.of(path, texts.get(name, default), name=name) for name, path in names.items())
    return Listing(pictures, found.images, found.skipped)


def read_prompts(file: AnyPath, names: Mapping[str, Path], *, complete: bool = True) -> dict[str, str]:
    """The text for each name, from a CSV file with the columns ``image`` and ``prompt``.

    Args:
        names: Of the pictures, with their paths.
        complete: Whether each must have a text.

    Raises:
        InvalidValueError: Naming the line, or the picture, and what is wrong with it.
    """
    by_file: dict[str, list[tuple[str, str]]] = {}
    for name, path in names.items():
        whole = legible(Path(os.path.abspath(path)).as_posix())
        by_file.setdefault(basename(whole), []).append((name, whole))
    texts: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in read_rows(file, "prompt file", ("image", "prompt")):
        image = normpath(row["image"])
        alike = by_file.get(basename(image), [])
        fits = [image] if image in names else [n for n, whole in alike if f"/{whole}".endswith(f"/{image}")]
        if len(fits) > 1:
            raise InvalidValueError(
                f"{file}, line {line}: {shown(row['image'])} may be {fits[0]!r} or {fits[1]!r}. Write one of these."
            )
        if not fits:
            near = did_you_mean(row["image"], islice(names, 1000)) or f"The first one is called {next(iter(names))!r}."
            raise InvalidValueError(f"{file}, line {line}: none of the pictures is {shown(row['image'])}. {near}")
        if fits[0] in lines:
            raise InvalidValueError(
                f"{file}, line {line}: {fits[0]!r} has a text already, in line {lines[fits[0]]}. Keep one of them."
            )
        texts[fits[0]], lines[fits[0]] = row["prompt"], line
    missing = [name for name in names if name not in texts]
    if missing and complete:
        raise InvalidValueError(
            f"{file} has no text for {len(missing)} of {len(names)} pictures, the first is {missing[0]!r}. Add rows, "
            "or give --prompt TEXT for those without one."
        )
    return texts


def _name(path: Path, root: Path, inside: bool) -> str:
    """Relative to a folder; links on the way count as they are written."""
    relative = PurePath(os.path.relpath(os.path.abspath(path), os.path.abspath(root)))
    if inside and relative.parts[0] == "..":
        raise InvalidValueError(f"{path} does not lie in the root {root}.")
    return legible(relative.as_posix())
