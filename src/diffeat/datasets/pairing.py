"""Two folders whose files belong together by name: pictures, and the masks or measurements of them.

The folders lie side by side, in any of these ways; a part without a folder of its own is taken from the rest by order::

    images/  masks/                    images/train/  masks/train/
    train/images/  train/masks/        images/  masks/  train.txt  val.txt  (names, one a line)

A file belongs to the picture of the same name (below the folder, without its ending), or of the same name without words
that say what it is: ``0001_L.png`` and ``mask_0001.npy`` belong to ``0001.jpg``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from diffeat.datasets.pairs import read_list
from diffeat.errors import DatasetError, DiffeatError, did_you_mean
from diffeat.geometry.files import IMAGE_SUFFIXES, find_images

IMAGES = ("images", "image", "imgs", "img", "JPEGImages", "photos", "pictures", "rgb")
SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_WORDS = re.compile(
    r"(?i)(?:^|(?<=[_.-]))(img|image|rgb|photo|pic|picture|colou?rs?|leftimg8bit|masks?|labels?|labelids|labeltrainids|"
    r"seg|segmentation|gt|gtfine|gtcoarse|anno|annotations?|depth|sync|normals?|matte|target|l|p)(?=$|[_.-])"
)
_NAMED = 3  # files that a message names
_STEP = {"val": 2, "test": 5}  # of six


@dataclass(frozen=True)
class Found:
    """Pictures with what belongs to them, and what a reader of numbers must know."""

    pairs: tuple[tuple[Path, Path], ...]
    notes: tuple[str, ...] = ()


def find_pairs(root: str | Path, split: str, second: Sequence[str], what: str) -> Found:
    """The pictures of a split and their files.

    Where a folder has no parts, the third of every six pictures in order is of ``val`` and the sixth of ``test``. A
    missing ``test`` is ``val``; of a missing ``val`` the third of every six training pictures is.

    Args:
        split: ``train``, ``val`` or ``test``.
        second: What the other folder may be called.
        what: Its files are, for messages: ``"mask"``.

    Raises:
        DatasetError: There are no such folders, a file has no picture, or a part is empty.
    """
    base = Path(root)
    parts = _parts(base, second, what)
    if "" not in parts:
        steps = {name: step for name, step in _STEP.items() if name not in parts}
        if split in parts and (split != "train" or "val" not in steps):
            return pairs_of(*parts[split], what)
        if split == "test" and "val" in parts:
            found = pairs_of(*parts["val"], what)
            return Found(found.pairs, (*found.notes, "there is no test part: the validation part is scored"))
        if "train" not in parts:
            raise DatasetError(f"{base} has no {split} part, only {', '.join(parts)}.")
        return _share(pairs_of(*parts["train"], what), split, base, steps)
    found = pairs_of(*parts[""], what)
    listed = {name: _listed(base, name) for name in SPLITS}
    if not any(listed.values()):
        return _share(found, split, base, _STEP)
    names = listed[split] or (listed["val"] if split == "test" else None)
    if names is None:
        raise DatasetError(f"{base} has no {split}.txt, and lists for {', '.join(n for n, v in listed.items() if v)}.")
    chosen = tuple(pair for pair in found.pairs if _below(pair[0], parts[""][0]) in names or pair[0].stem in names)
    if len(chosen) < len(names):
        there = {_below(p, parts[""][0]) for p, _ in chosen} | {p.stem for p, _ in chosen}
        missing = sorted(names - there)
        raise DatasetError(
            f"{len(missing)} names of {base / split}.txt have no picture with a {what}: {_some(missing)}."
        )
    return Found(chosen, found.notes)


def all_files(root: str | Path, second: Sequence[str], what: str) -> list[Path]:
    """The files of all parts; raises as :func:`find_pairs`."""
    parts = _parts(Path(root), second, what)
    return [file for folders in parts.values() for _, file in pairs_of(*folders, what).pairs]


def _parts(base: Path, second: Sequence[str], what: str) -> dict[str, tuple[Path, Path]]:
    """The two folders of every part that has its own; those of all under ``""``."""
    if not base.is_dir():
        raise DatasetError(f"There is no folder {base}; one with {IMAGES[0]}/ and {second[0]}/ is wanted.")
    parts: dict[str, tuple[Path, Path]] = {}
    images, files = _one_of(base, IMAGES), _one_of(base, second)
    for split, names in SPLITS.items():
        below = _one_of(base, names)
        own = (_one_of(below, IMAGES), _one_of(below, second)) if below else (None, None)
        if own == (None, None) and images and files:
            own = _one_of(images, names), _one_of(files, names)
        if own[0] and own[1]:
            parts[split] = own[0], own[1]
    if not parts and images and files:
        parts[""] = images, files
    if not parts:
        there = sorted(p.name for p in base.iterdir() if p.is_dir() and p.name[0] != "." and p != images)
        wanted = IMAGES[0] if not images else second[0]
        raise DatasetError(
            f"{base} holds no folder of {'pictures' if not images else f'{what}s'}: {IMAGES[0]}/ and {second[0]}/ are "
            f"wanted, side by side or below train/ and test/. {did_you_mean(wanted, there)}".rstrip()
        )
    return parts


def _one_of(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def pairs_of(images: Path, files: Path, what: str) -> Found:
    """All pictures of a folder with the files of another; raises as :func:`find_pairs`."""
    pictures: dict[str, Path] = {}
    for picture in find_images(images):
        if (twin := pictures.setdefault(_below(picture, images), picture)) != picture:
            raise DatasetError(f"Two pictures are called the same: {twin} and {picture}. Rename or leave one of them.")
    others = sorted(p for p in files.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES | {".npy"} and p.name[0] != ".")
    exact = {_below(p, files) for p in others} & set(pictures)
    key = _plain if len(exact) < len(others) else str
    by_key: dict[str, Path] = {}
    for file in others:
        name = _below(file, files)
        twin = by_key.setdefault(name if name in exact else key(name), file)
        if twin != file:
            raise DatasetError(f"Two {what}s belong to one picture: {twin} and {file}. Leave one of them.")
    pairs, alone = [], []
    for name, picture in pictures.items():
        file = by_key.pop(name, None) or by_key.pop(key(name), None)
        if file:
            pairs.append((picture, file))
        else:
            alone.append(picture)
    if by_key:
        raise DatasetError(
            f"{len(by_key)} of {len(others)} {what}s in {files} have no picture in {images}: "
            f"{_some(p.name for p in by_key.values())}. They belong together by name."
        )
    if not pairs:
        raise DatasetError(f"{images} holds {len(alone)} pictures and {files} no {what} of any of them. Add some.")
    notes = (f"{len(alone)} pictures without a {what} are left out: {_some(p.name for p in alone)}",) if alone else ()
    return Found(tuple(pairs), notes)


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _plain(name: str) -> str:
    """The name without words that say what the file is."""
    path = PurePosixPath(name)
    stem = re.sub(r"[_.-]+", "_", _WORDS.sub("", path.name)).strip("_")
    return str(path.parent / (stem or path.name))


def _share(found: Found, split: str, base: Path, steps: dict[str, int]) -> Found:
    """A part of pictures that have no parts of their own."""
    place = {step: name for name, step in steps.items()}
    chosen = tuple(pair for i, pair in enumerate(found.pairs) if place.get(i % 6, "train") == split)
    if not chosen:
        raise DatasetError(
            f"{base} holds {len(found.pairs)} pictures that are labelled, which leaves none for the {split} part. Add "
            f"some, or name the parts: images/train and images/test."
        )
    return Found(chosen, (*found.notes, f"of every six pictures in order, {_told(steps)}"))


def _told(steps: dict[str, int]) -> str:
    words = {2: "the third is a validation picture", 5: "the sixth a test picture"}
    return " and ".join(words[step] for step in sorted(steps.values()))


def _listed(base: Path, split: str) -> set[str] | None:
    file = next((base / f"{name}.txt" for name in SPLITS[split] if (base / f"{name}.txt").is_file()), None)
    if file is None:
        return None
    try:
        lines = read_list(file).split("\n")
    except DiffeatError as error:
        raise DatasetError(str(error)) from error
    names = {PurePosixPath(line.strip()).with_suffix("").as_posix() for line in lines if line.strip()}
    if not names:
        raise DatasetError(f"{file} names no picture. Name some, or remove it.")
    return names


def _some(names: Iterable[object]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:_NAMED]) + (" …" if len(listed) > _NAMED else "")
