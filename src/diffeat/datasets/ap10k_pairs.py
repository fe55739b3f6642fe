"""Pair lists for AP-10K, by the rules of GeoAware-SC (Zhang et al., arXiv:2311.17034), in the layout that is read here.

AP-10K itself is ``data/<file>.jpg`` and ``annotations/ap10k-{train,val,test}-split1.json`` (COCO). The three parts are
put together; a picture counts with its first animal, if that shows three key points; of each species the last 30
pictures are for testing, up to 20 before them for validation, the others for training. A pair shares three key points
or more:

* within a species all pairs (training: 50 times its pictures at most);
* across the species of a family 900 pairs for testing and 400 for validation;
* across two families 30 and 20.

Theirs leave out a list of crowded pictures, which ``leave_out`` takes; without one, pictures with several animals are
left out. They go through pictures in the order of their file system and draw with Python's generator; here the order is
that of the names, so the lists are drawn alike but are not the same.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffeat.datasets.pairs import inside, need, parsed, read_json, read_list
from diffeat.errors import DatasetError
from diffeat.files import new_folder
from diffeat.progress import Progress, silent

NAME, PAGE = "AP-10K", "https://github.com/AlexTheBad/AP-10K"
_FOLDERS = ("PairAnnotation/", "ImageAnnotation/", "JPEGImages/")
_SHARED, _TESTED, _VALIDATED, _PER_PICTURE = 3, 30, 20, 50
_ACROSS = {"species": {"test": 900, "val": 400}, "family": {"test": 30, "val": 20}}


@dataclass(frozen=True)
class _Animal:
    picture: Path
    family: str
    species: str
    annotation: dict[str, Any]

    @property
    def place(self) -> str:
        """Folders and name, without ending."""
        return f"{self.family}/{self.species}/{self.picture.stem}"

    @property
    def visible(self) -> NDArray[np.int64]:
        return (np.array(self.annotation["keypoints"], dtype=float)[2::3] > 0).astype(np.int64)


def write_ap10k_pairs(
    raw: str | Path,
    folder: str | Path,
    *,
    leave_out: str | Path | None = None,
    seed: int = 42,
    progress: Progress = silent,
) -> dict[str, int]:
    """Write pairs, annotations and copies of the pictures, as :func:`~diffeat.datasets.read_ap10k` reads them.

    Args:
        raw: AP-10K as it is published.
        folder: Made if missing.
        leave_out: File with the names of pictures that are not used, one in a line.

    Returns:
        How many pairs each split has.

    Raises:
        DatasetError: The dataset is missing or damaged, or has nothing to pair.
        InvalidValueError: The folder holds pairs already.
    """
    root = new_folder(folder, _FOLDERS)
    animals = _animals(Path(raw), leave_out)
    if not animals:
        raise DatasetError(f"{NAME}: no picture below {raw} shows {_SHARED} key points of one animal.")
    for animal in progress(animals, total=len(animals), desc="pictures"):
        for kind, ending in (("JPEGImages", "jpg"), ("ImageAnnotation", "json")):
            file = root / kind / f"{animal.place}.{ending}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if kind == "JPEGImages":
                shutil.copyfile(animal.picture, file)
            else:
                file.write_text(json.dumps(animal.annotation), encoding="utf-8")
    counts: dict[str, int] = {}
    rng = np.random.default_rng(seed)
    for split, category, one, other in _pairs(_splits(animals), rng):
        counts[split] = number = counts.get(split, 0) + 1
        file = root / "PairAnnotation" / split / f"{number:06d}-{one.picture.stem}-{other.picture.stem}:{category}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        paths = (f"ImageAnnotation/{animal.place}.json" for animal in (one, other))
        file.write_text(json.dumps(dict(zip(("src_json_path", "trg_json_path"), paths, strict=True))), encoding="utf-8")
    return counts


def _animals(raw: Path, leave_out: str | Path | None) -> list[_Animal]:
    skipped = set(parsed(Path(leave_out), NAME, PAGE, read_list).split()) if leave_out is not None else None
    chosen: dict[str, _Animal] = {}
    crowded: set[str] = set()
    for part in ("train", "val", "test"):
        file = raw / "annotations" / f"ap10k-{part}-split1.json"
        data = parsed(file, NAME, PAGE, read_json)
        for animal in parsed(file, NAME, PAGE, lambda _, d=data: list(_of_part(raw, d))):
            name = animal.picture.name
            crowded |= {name} if name in chosen else set()
            chosen.setdefault(name, animal)
    out = crowded if skipped is None else skipped
    used = [a for a in chosen.values() if not out & {a.picture.name, a.picture.stem} and a.visible.sum() >= _SHARED]
    for animal in used:
        need(animal.picture, NAME, PAGE)
    return sorted(used, key=lambda animal: animal.place)


def _of_part(raw: Path, data: dict[str, Any]) -> Iterator[_Animal]:
    images = {image["id"]: image for image in data["images"]}
    species = {category["id"]: category for category in data["categories"]}
    for annotation in data["annotations"]:
        image, category = images[annotation["image_id"]], species[annotation["category_id"]]
        names = (str(category["supercategory"]), str(category["name"]))
        inside(raw, "/".join(names))  # names become folders
        yield _Animal(
            inside(raw / "data", str(image["file_name"])),
            *names,
            {name: annotation[name] for name in ("keypoints", "bbox")} | {s: image[s] for s in ("width", "height")},
        )


def _splits(animals: Sequence[_Animal]) -> dict[str, dict[tuple[str, str], list[_Animal]]]:
    """Pictures of each (family, species), by split."""
    by_species: dict[tuple[str, str], list[_Animal]] = {}
    for animal in animals:
        by_species.setdefault((animal.family, animal.species), []).append(animal)
    first, second = _TESTED, _TESTED + _VALIDATED
    cuts = {"trn": slice(None, -second), "val": slice(-second, -first), "test": slice(-first, None)}
    return {split: {key: own[cut] for key, own in by_species.items()} for split, cut in cuts.items()}


def _pairs(
    splits: dict[str, dict[tuple[str, str], list[_Animal]]], rng: np.random.Generator
) -> Iterator[tuple[str, str, _Animal, _Animal]]:
    """Split, category, and the two of every pair."""
    for split, by_species in splits.items():
        for (_, species), own in by_species.items():
            most = _PER_PICTURE * len(own) if split == "trn" else None
            yield from ((split, species, *pair) for pair in _drawn(_sharing(own, own), most, rng))
    for split in ("val", "test"):
        families: dict[str, list[list[_Animal]]] = {}
        for (family, _), own in splits[split].items():
            families.setdefault(family, []).append(own)
        for family, groups in families.items():
            sharing = [pair for a, b in combinations(groups, 2) for pair in _sharing(a, b)]
            drawn = _drawn(sharing, _ACROSS["species"][split], rng)
            yield from ((f"{split}_cross_species", family, *pair) for pair in drawn)
        whole = [[animal for group in groups for animal in group] for groups in families.values()]
        for a, b in combinations(whole, 2):
            drawn = _drawn(_sharing(a, b), _ACROSS["family"][split], rng)
            yield from ((f"{split}_cross_family", "all", *pair) for pair in drawn)


def _sharing(one: Sequence[_Animal], other: Sequence[_Animal]) -> list[tuple[_Animal, _Animal]]:
    """Pairs that share enough key points; of a group with itself each once."""
    if not one or not other:
        return []
    shared = np.stack([a.visible for a in one]) @ np.stack([b.visible for b in other]).T >= _SHARED
    shared = np.triu(shared, 1) if one is other else shared
    return [(one[i], other[j]) for i, j in np.argwhere(shared)]


def _drawn(
    pairs: Sequence[tuple[_Animal, _Animal]], most: int | None, rng: np.random.Generator
) -> list[tuple[_Animal, _Animal]]:
    """All, or so many of them, in their order."""
    if most is None or len(pairs) <= most:
        return list(pairs)
    return [pairs[i] for i in np.sort(rng.choice(len(pairs), most, replace=False))]
