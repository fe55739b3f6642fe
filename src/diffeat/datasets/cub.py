"""CUB-200-2011 as a correspondence benchmark: 15 parts on birds of 200 species.

There is no published list of pairs. Pairs of pictures of one species are drawn here from the official split with a
fixed seed; results say so. Parts count where they are visible in both pictures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.pairs import Box, PairDataset, PointPair, as_pixel, checked, inside, parsed, read_lines
from diffeat.errors import DatasetError, UnknownNameError, did_you_mean, shown

T = TypeVar("T")
NAME = "CUB-200-2011"
PAGE = "https://www.vision.caltech.edu/datasets/cub_200_2011/"
SPLITS = {"train": 1, "test": 0}


def read_cub(
    root: str | Path, split: str = "test", *, pairs_per_category: int = 10, seed: int = 0, least: int = 3
) -> PairDataset:
    """Draw pairs of a split.

    Args:
        root: The folder ``CUB_200_2011`` (with ``images.txt``), or the one that holds it.
        split: ``train`` or ``test``.
        pairs_per_category: Ordered pairs drawn for each species, fewer where there are no more.
        seed: Of the draw.
        least: Parts that must be visible in both pictures.

    Raises:
        DatasetError: A file is missing or damaged; names it and the page.
        UnknownNameError: No such split.
    """
    folder = Path(root)
    if not (folder / "images.txt").is_file() and (folder / "CUB_200_2011").is_dir():
        folder = folder / "CUB_200_2011"
    if split not in SPLITS:
        raise UnknownNameError(f"{NAME} has no split {split!r}. {did_you_mean(split, SPLITS)}")

    def table(name: str, read: Callable[[list[str]], T]) -> list[T]:
        return parsed(folder / name, NAME, PAGE, lambda p: read_lines(p, read))

    paths = dict(table("images.txt", lambda row: (row[0], inside(folder / "images", row[1]))))
    chosen = [k for k, use in table("train_test_split.txt", lambda row: (row[0], int(row[1]))) if use == SPLITS[split]]
    boxes = dict(table("bounding_boxes.txt", lambda row: (row[0], _box(row[1:5]))))
    parts: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for image, part, point, visible in table("parts/part_locs.txt", _part):
        if visible:
            parts[image][part] = point
    species: dict[str, list[str]] = defaultdict(list)
    for image in chosen:
        if image not in paths or image not in boxes:
            raise DatasetError(
                f"{NAME}: picture {shown(image)} of train_test_split.txt is not in images.txt or bounding_boxes.txt "
                f"under {folder}. See {PAGE}"
            )
        species[paths[image].parent.name].append(image)

    pairs = []
    rng = np.random.default_rng(seed)
    for category in sorted(species):
        members = species[category]
        drawn = 0
        for k in rng.permutation(len(members) * (len(members) - 1)):
            i, j = divmod(int(k), len(members) - 1)
            one, other = members[i], members[j + (j >= i)]
            both = [p for p in parts[one] if p in parts[other]]
            if len(both) < least:
                continue
            pairs.append(
                PointPair(
                    f"{one}-{other}:{category}",
                    paths[one],
                    paths[other],
                    tuple(parts[one][p] for p in both),
                    tuple(parts[other][p] for p in both),
                    category,
                    boxes[one],
                    boxes[other],
                    keypoints=tuple(both),
                )
            )
            drawn += 1
            if drawn == pairs_per_category:
                break
    note = f"pairs drawn here: {pairs_per_category} per species, seed {seed}, at least {least} common parts"
    return PairDataset("cub", split, folder, checked(pairs, NAME, PAGE, folder), (note,))


def _part(row: list[str]) -> tuple[str, str, tuple[float, float], bool]:
    return row[0], row[1], (as_pixel(row[2]), as_pixel(row[3])), int(row[4]) != 0


def _box(values: list[str]) -> Box:
    left, top, width, height = (as_pixel(v) for v in values)
    return left, top, left + width, top + height


CARD = DatasetCard("cub", "pairs", read_cub, tuple(SPLITS), protocol="spair", page=PAGE)
