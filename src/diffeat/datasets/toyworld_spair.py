"""The toy world written as a correspondence dataset, in the layout of SPair-71k.

Each split draws pictures of its own (never seen by another split, nor by another seed) and pairs pictures of one class
that show at least three common keypoints. Flags are those of SPair-71k: viewpoint, scale, truncation, occlusion.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.pairs import PairDataset, need, parsed, read_json
from diffeat.datasets.spair import read_spair
from diffeat.datasets.toyworld import CLASSES, ToySample, Toyworld
from diffeat.errors import InvalidValueError
from diffeat.files import new_folder
from diffeat.progress import Progress, silent

SPLITS: tuple[str, ...] = ("trn", "val", "test")
#: Sample indices of a split start here, so that splits share nothing.
_FIRST = {"trn": 0, "val": 1_000_000, "test": 2_000_000}
_FOLDERS = ("ImageAnnotation/", "JPEGImages/", "Layout/", "PairAnnotation/", "Segmentation/")
_TURNS = ("right", "back", "left", "front")
_LEAST = 3


def write_toyworld_pairs(
    folder: str | Path,
    *,
    seed: int = 7,
    size: int = 128,
    classes: Sequence[str] | None = None,
    images: dict[str, int] | None = None,
    pairs: int = 30,
    progress: Progress = silent,
    force: bool = False,
) -> Path:
    """Write the dataset; an existing one of the same settings is left alone.

    Args:
        folder: Made if missing.
        seed: Which world.
        size: Side of the pictures in pixels.
        classes: Which classes; all by default.
        images: Pictures per class for each split, by default 8 (trn), 4 (val) and 10 (test).
        pairs: Ordered pairs drawn per class and split, fewer where there are no more.
        force: Write over files of other datasets.

    Returns:
        The folder.

    Raises:
        InvalidValueError: The folder holds another dataset.
    """
    root = Path(folder)
    counts = images or {"trn": 8, "val": 4, "test": 10}
    world = Toyworld(seed, size, classes)
    settings = {"seed": seed, "size": size, "classes": list(world.classes), "images": counts, "pairs": pairs}
    stamp, unfinished = root / "toyworld.json", root / "toyworld.part.json"
    if stamp.is_file() and parsed(stamp, "toyworld", CARD.page, read_json) == settings:
        return root
    if stamp.is_file() and not force:
        raise InvalidValueError(
            f"{root} holds a toy world of other settings ({stamp}). Choose another folder, or give --force "
            "(force=True in Python)."
        )
    ours = unfinished.is_file() and parsed(unfinished, "toyworld", CARD.page, read_json) == settings
    new_folder(root, () if ours else _FOLDERS, force=force)
    root.mkdir(parents=True, exist_ok=True)
    _write(unfinished, settings)
    for kind in ("large", "small"):
        (root / "Layout" / kind).mkdir(parents=True, exist_ok=True)
    number = 0
    for split in SPLITS:
        names: list[str] = []
        (root / "PairAnnotation" / split).mkdir(parents=True, exist_ok=True)
        for position, name in enumerate(progress(world.classes, total=len(world.classes), desc=split)):
            samples = _samples(root, world, split, position, name, counts.get(split, 0))
            for source, target in _chosen(samples, pairs, seed + position):
                number += 1
                data = _pair(number, samples[source], samples[target], source, target)
                names.append(data["filename"])
                _write(root / "PairAnnotation" / split / f"{data['filename']}.json", data)
        for kind in ("large", "small"):
            (root / "Layout" / kind / f"{split}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    os.replace(unfinished, stamp)
    return root


def read_toyworld_pairs(root: str | Path, split: str = "test") -> PairDataset:
    """The pairs of a split; errors as :func:`~diffeat.datasets.spair.read_spair`."""
    need(Path(root) / "toyworld.json", "toyworld", CARD.page, "the settings of a written toy world")
    return replace(read_spair(root, split), name="toyworld")


CARD = DatasetCard(
    "toyworld",
    "pairs",
    read_toyworld_pairs,
    ("train", "val", "test"),
    protocol="spair",
    page="`diffeat toyworld write FOLDER`",
)


def index_of(split: str, position: int, number: int) -> int:
    """Index in its world of a picture of a split, of the class at a position, with its number."""
    return _FIRST[split] + 1000 * position + number


def _samples(root: Path, world: Toyworld, split: str, position: int, name: str, count: int) -> dict[str, ToySample]:
    """Draw, write and annotate the pictures of one class."""
    for kind in ("JPEGImages", "ImageAnnotation", "Segmentation"):
        (root / kind / name).mkdir(parents=True, exist_ok=True)
    found = {}
    for k in range(count):
        sample = world.sample(index_of(split, position, k), name=name)
        stem = f"{split}_{position:02d}_{k:04d}"
        Image.fromarray(sample.image).save(root / "JPEGImages" / name / f"{stem}.jpg", quality=95, subsampling=0)
        Image.fromarray(sample.parts).save(root / "Segmentation" / name / f"{stem}.png")
        _write(root / "ImageAnnotation" / name / f"{stem}.json", _annotation(stem, sample))
        found[stem] = sample
    return found


def _chosen(samples: dict[str, ToySample], pairs: int, seed: int) -> list[tuple[str, str]]:
    stems = sorted(samples)
    possible = [(a, b) for a in stems for b in stems if a != b and len(_common(samples[a], samples[b])) >= _LEAST]
    if len(possible) <= pairs:
        return possible
    chosen = np.random.default_rng(seed).choice(len(possible), pairs, replace=False)
    return [possible[i] for i in sorted(chosen)]


def _common(one: ToySample, other: ToySample) -> list[str]:
    a, b = one.keypoints, other.keypoints
    return [n for n in one.names if n in b and a[n][2] and b[n][2]]


def _annotation(stem: str, sample: ToySample) -> dict[str, Any]:
    height, width = sample.image.shape[:2]
    return {
        "filename": f"{stem}.jpg",
        "image_width": width,
        "image_height": height,
        "image_depth": 3,
        "category": sample.name,
        "category_id": CLASSES.index(sample.name),
        "pose": sample.attributes["view"],
        "truncated": int(sample.truncated),
        "occluded": int(sample.occluded),
        "bndbox": list(sample.box),
        "kps": {n: [x, y] if seen else None for n, (x, y, seen) in sample.keypoints.items()},
        "caption": sample.caption,
    }


def _pair(number: int, one: ToySample, other: ToySample, source: str, target: str) -> dict[str, Any]:
    names = _common(one, other)
    a, b = one.keypoints, other.keypoints
    turn = abs(_TURNS.index(one.attributes["view"]) - _TURNS.index(other.attributes["view"]))
    areas = sorted((s.box[2] - s.box[0] + 1) * (s.box[3] - s.box[1] + 1) for s in (one, other))
    ratio = areas[1] / areas[0]
    return {
        "pair_id": number,
        "filename": f"{number:06d}-{source}-{target}:{one.name}",
        "src_imname": f"{source}.jpg",
        "trg_imname": f"{target}.jpg",
        "src_imsize": [one.image.shape[1], one.image.shape[0], 3],
        "trg_imsize": [other.image.shape[1], other.image.shape[0], 3],
        "src_bndbox": list(one.box),
        "trg_bndbox": list(other.box),
        "category": one.name,
        "src_pose": one.attributes["view"],
        "trg_pose": other.attributes["view"],
        "src_kps": [list(a[n][:2]) for n in names],
        "trg_kps": [list(b[n][:2]) for n in names],
        "kps_ids": names,
        "viewpoint_variation": min(turn, 4 - turn),
        "scale_variation": 0 if ratio < 2 else 1 if ratio < 4 else 2,
        "truncation": int(one.truncated) + 2 * int(other.truncated),
        "occlusion": int(one.occluded) + 2 * int(other.occluded),
    }


def _write(path: Path, data: dict[str, Any]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(data, indent=1), encoding="utf-8")
    os.replace(part, path)
