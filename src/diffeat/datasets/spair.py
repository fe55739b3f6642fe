"""SPair-71k: 70,958 pairs of 18 categories (Min et al., arXiv:1908.10543).

Two forms are read: the original folder (``Layout``, ``PairAnnotation``, ``JPEGImages``), and the flat JSON lists that
Diffusion Hyperfeatures distributes (``source_path``, ``source_points`` …), such as its 360-pair test subset.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.pairs import (
    Box,
    PairDataset,
    PointPair,
    as_pixel,
    as_points,
    beside,
    checked,
    inside,
    need,
    parsed,
    read_json,
    read_list,
)
from diffeat.errors import DatasetError, UnknownNameError, did_you_mean

NAME = "SPair-71k"
PAGE = "http://cvlab.postech.ac.kr/research/SPair-71k/"
U_PAGE = "https://github.com/VICO-UoE/JamaisVu"
LIST_PAGE = "https://diffusion-hyperfeatures.github.io"
SPLITS = {"train": "trn", "trn": "trn", "val": "val", "test": "test"}
ATTRIBUTES = ("mirror", "viewpoint_variation", "scale_variation", "truncation", "occlusion")


def read_spair(root: str | Path, split: str = "test", layout: str = "large") -> PairDataset:
    """Read a split of the original folder.

    Args:
        root: The folder ``SPair-71k``, or the one that holds it.
        split: ``train`` (or ``trn``), ``val`` or ``test``.
        layout: ``large`` (the published splits) or ``small``.

    Raises:
        DatasetError: A file is missing or damaged; names it and the dataset's page.
        UnknownNameError: No such split.
    """
    folder = _root(Path(root))
    if split not in SPLITS:
        raise UnknownNameError(f"{NAME} has no split {split!r}. {did_you_mean(split, SPLITS)}")
    part = SPLITS[split]
    listing = need(folder / "Layout" / layout / f"{part}.txt", NAME, PAGE, f"the list of {part} pairs")
    names = parsed(listing, NAME, PAGE, lambda p: read_list(p).split())
    if not names:
        raise DatasetError(f"{NAME}: {listing} lists no pair. It may be half unpacked; it comes from {PAGE}")
    annotations = folder / "PairAnnotation" / part
    files = parsed(listing, NAME, PAGE, lambda _: [inside(annotations, f"{name}.json") for name in names])
    pairs = [parsed(file, NAME, PAGE, lambda p: _pair(read_json(p), folder)) for file in files]
    return PairDataset("spair", split, folder, checked(pairs, NAME, PAGE, folder))


def read_pair_list(file: str | Path, images: str | Path | None = None, name: str = "spair-json") -> PairDataset:
    """Read a flat JSON list of pairs (the format of Diffusion Hyperfeatures).

    Args:
        file: List of ``{source_path, target_path, source_points, target_points, category,
            source_bounding_box, target_bounding_box}``.
        images: Folder that the paths are relative to; that of the file if not given.

    Raises:
        DatasetError: The file is missing or of another form, or a picture is missing.
    """
    path = Path(file)
    folder = Path(images) if images is not None else path.parent
    rows = parsed(path, "The pair list", LIST_PAGE, read_json)
    if not isinstance(rows, list):
        raise DatasetError(f"{path} must hold a list of pairs, not {type(rows).__name__}.")
    if not rows:
        raise DatasetError(f"{path} holds no pair.")
    pairs = [
        parsed(path, "The pair list", LIST_PAGE, lambda _, i=i, row=row: _listed(i, row, folder), f"pair {i + 1}")
        for i, row in enumerate(rows)
    ]
    return PairDataset(name, path.stem, folder, checked(pairs, "The pair list's dataset", PAGE, folder))


def _root(root: Path) -> Path:
    for folder in (root, root / "SPair-71k"):
        if (folder / "PairAnnotation").is_dir() or (folder / "Layout").is_dir():
            return folder
    need(root, NAME, PAGE)
    raise DatasetError(
        f"{root} is not {NAME}: it has neither PairAnnotation nor Layout, nor a folder SPair-71k with them. "
        f"Unpack the archive from {PAGE} and give its folder."
    )


def _pair(data: dict[str, Any], folder: Path) -> PointPair:
    images = inside(folder / "JPEGImages", data["category"])
    return PointPair(
        name=data["filename"].removesuffix(".json"),
        source=inside(images, data["src_imname"]),
        target=inside(images, data["trg_imname"]),
        source_points=as_points(data["src_kps"]),
        target_points=as_points(data["trg_kps"]),
        category=data["category"],
        source_box=as_box(data["src_bndbox"]),
        target_box=as_box(data["trg_bndbox"]),
        source_size=_size(data.get("src_imsize")),
        target_size=_size(data.get("trg_imsize")),
        keypoints=tuple(str(k) for k in data.get("kps_ids", ())),
        attributes={k: data[k] for k in ATTRIBUTES if k in data},
    )


def _listed(index: int, row: dict[str, Any], folder: Path) -> PointPair:
    def stem(path: str) -> str:
        return Path(path).stem

    return PointPair(
        name=f"{index:06d}-{stem(row['source_path'])}-{stem(row['target_path'])}:{row.get('category', '')}",
        source=beside(folder, row["source_path"]),
        target=beside(folder, row["target_path"]),
        source_points=as_points(row["source_points"]),
        target_points=as_points(row["target_points"]),
        category=row.get("category", ""),
        source_box=as_box(row.get("source_bounding_box")),
        target_box=as_box(row.get("target_bounding_box")),
        attributes={k: row[k] for k in ATTRIBUTES if k in row},
    )


def _size(values: Any) -> tuple[int, int] | None:
    return None if values is None else (int(values[0]), int(values[1]))


def as_box(values: Any) -> Box | None:
    """(left, top, right, bottom) as floats, or ``None`` where there is none."""
    if values is None:
        return None
    left, top, right, bottom = (as_pixel(v) for v in values)
    return left, top, right, bottom


def read_spair_u(root: str | Path, split: str = "test") -> PairDataset:
    """SPair-U: other key points on the pictures of SPair-71k (Jamais Vu, NeurIPS 2025), in the layout of its folder.

    Arguments and errors as of :func:`read_spair`.
    """
    return replace(read_spair(root, split), name="spair-u")


CARD = DatasetCard("spair", "pairs", read_spair, ("train", "val", "test"), protocol="spair", page=PAGE)
U_CARD = DatasetCard("spair-u", "pairs", read_spair_u, ("train", "val", "test"), protocol="spair", page=U_PAGE)
LIST_CARD = DatasetCard(
    "spair-json",
    "pairs",
    read_pair_list,
    protocol="hyperfeatures",
    page=LIST_PAGE,
    options={"images": "Folder that the paths of the pair list are relative to; the list's own if not given."},
)
