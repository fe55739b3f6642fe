"""AP-10K as a correspondence benchmark, in the layout that GeoAware-SC prepares (Zhang et al., arXiv:2311.17034).

``PairAnnotation/<split>/*:<category>.json`` names two files of ``ImageAnnotation/<family>/<species>/``, each with 17
keypoints (x, y, visibility) and a box (left, top, width, height); pictures lie likewise under ``JPEGImages``.
A point counts where it is labelled in both pictures. A pair's category is the species, of the cross-species splits the
family, and ``all`` across families; what each picture shows is always its own species. Lists of pairs are drawn by
:mod:`diffeat.datasets.ap10k_pairs`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.pairs import (
    Box,
    PairDataset,
    PointPair,
    as_pixel,
    checked,
    inside,
    need,
    parsed,
    read_json,
)
from diffeat.errors import DatasetError, UnknownNameError, did_you_mean

NAME = "AP-10K (pairs)"
PAGE = "https://github.com/Junyi42/GeoAware-SC (pairs) and https://github.com/AlexTheBad/AP-10K (pictures)"
SPLITS = (
    *("trn", "val", "test"),
    *("val_cross_species", "test_cross_species", "val_cross_family", "test_cross_family"),
)


def read_ap10k(root: str | Path, split: str = "test") -> PairDataset:
    """Read the pairs of a split.

    Args:
        root: The folder with ``PairAnnotation``, ``ImageAnnotation`` and ``JPEGImages``.
        split: ``test`` is intra-species; see :data:`SPLITS`.

    Raises:
        DatasetError: A file is missing or damaged; names it and the page.
        UnknownNameError: No such split.
    """
    folder = Path(root)
    split = {"train": "trn"}.get(split, split)
    if split not in SPLITS:
        raise UnknownNameError(f"{NAME} has no split {split!r}. {did_you_mean(split, SPLITS)}")
    listing = need(folder / "PairAnnotation" / split, NAME, PAGE, "the split's pair files")
    files = sorted(listing.glob("*.json"))
    if not files:
        raise DatasetError(f"{NAME}: {listing} holds no pair file. It comes from {PAGE}")

    @cache
    def image(path: Path) -> dict[str, Any]:
        return parsed(path, NAME, PAGE, read_json)

    pairs = []
    for file in files:
        sides = parsed(file, NAME, PAGE, lambda p: [_annotation(folder, read_json(p), s, p) for s in ("src", "trg")])
        pairs.append(parsed(file, NAME, PAGE, lambda p, s=sides: _pair(p, s[0], s[1], image(s[0]), image(s[1]))))
    return PairDataset("ap10k", split, folder, checked(pairs, NAME, PAGE, folder))


def _annotation(folder: Path, data: dict[str, Any], side: str, file: Path) -> Path:
    """Where an annotation lies here: pair files hold paths of the machine that wrote them."""
    key = f"{side}_json_path"
    parts = PurePosixPath(str(data.get(key, "")).replace("\\", "/")).parts
    if "ImageAnnotation" not in parts:
        raise DatasetError(f"{NAME}: {file} has no {key!r} below ImageAnnotation. It comes from {PAGE}")
    return inside(folder, "/".join(parts[parts.index("ImageAnnotation") :]))


def _pair(file: Path, source: Path, target: Path, one: dict[str, Any], other: dict[str, Any]) -> PointPair:
    a, b = (_keypoints(d) for d in (one, other))
    both = [i for i in range(len(a)) if a[i][2] > 0 and b[i][2] > 0]
    return PointPair(
        name=file.stem,
        source=_picture(source),
        target=_picture(target),
        source_points=tuple(a[i][:2] for i in both),
        target_points=tuple(b[i][:2] for i in both),
        category=file.stem.rsplit(":", 1)[-1],
        source_box=_box(one),
        target_box=_box(other),
        source_size=_size(one),
        target_size=_size(other),
        keypoints=tuple(str(i) for i in both),
        shows=(source.parent.name, target.parent.name),
    )


def _picture(annotation: Path) -> Path:
    parts = list(annotation.parts)
    parts[len(parts) - 1 - parts[::-1].index("ImageAnnotation")] = "JPEGImages"
    return Path(*parts).with_suffix(".jpg")


def _keypoints(data: dict[str, Any]) -> list[tuple[float, float, float]]:
    flat = [as_pixel(v) for v in data["keypoints"]]
    return [(flat[i], flat[i + 1], flat[i + 2]) for i in range(0, len(flat), 3)]


def _box(data: dict[str, Any]) -> Box:
    left, top, width, height = (as_pixel(v) for v in data["bbox"])
    return left, top, left + width, top + height


def _size(data: dict[str, Any]) -> tuple[int, int] | None:
    return (int(data["width"]), int(data["height"])) if "width" in data and "height" in data else None


CARD = DatasetCard("ap10k", "pairs", read_ap10k, ("train", *SPLITS[1:]), protocol="ap10k", page=PAGE)
