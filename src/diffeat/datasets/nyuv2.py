"""NYU Depth v2 in the layouts that depth and normals are learned from.

* official parts: ``official_splits/SPLIT/SCENE/rgb_*.jpg`` with ``sync_depth_*.png`` in millimetres (or ``train`` and
  ``test`` right away, or ``sync/SCENE`` for training);
* by lists: ``nyu2_train.csv`` and ``nyu2_test.csv`` of a picture and its depth, 8 bits for 10 m or 16 for millimetres;
* for several tasks: ``images``, ``depth`` (``.npy``, metres), ``normals`` and ``gt_sets/train.txt``, ``val.txt``.

Depth counts up to 10 m. The published ``nyu_depth_v2_labeled.mat`` is a container of HDF5; unpack it into one of these.
"""

from __future__ import annotations

from pathlib import Path

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.measured import Quantity, TargetDataset, TargetSample
from diffeat.datasets.pairs import inside, parsed, read_lines, read_list
from diffeat.errors import DatasetError

PAGE = "https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html"
_FAR = 10.0
_MILLIMETRES, _BYTES = 1000.0, 255 / _FAR


def read_nyuv2(root: str | Path, split: str = "test", *, quantity: Quantity = "depth") -> TargetDataset:
    """Read a part, with depth in metres or with normals.

    Raises:
        DatasetError: The folder is in none of these layouts, or half unpacked.
    """
    top = Path(root)
    samples = _of_tasks(top, split, quantity)
    if not samples and quantity == "depth":
        samples = _of_scenes(top, split) or _of_lists(top, split)
    if not samples:
        layouts = "images/, normals/ and gt_sets/" if quantity == "normals" else "official_splits/, *.csv or gt_sets/"
        hint = ", which is not read itself: unpack the .mat file first" if list(top.glob("*.mat")) else ""
        raise DatasetError(f"{top} holds no {quantity} of NYU Depth v2's part {split} ({layouts}){hint}. See {PAGE}")
    missing = [path for s in samples for path in (s.image, s.file) if not path.is_file()]
    if missing:
        raise DatasetError(f"{top} is not complete: {len(missing)} files are missing, the first is {missing[0]}.")
    limits = (0.001, _FAR) if quantity == "depth" else (0.0, float("inf"))
    return TargetDataset(f"nyuv2-{quantity}", split, samples, quantity, limits, "m" if quantity == "depth" else "")


def _of_tasks(top: Path, split: str, quantity: Quantity) -> tuple[TargetSample, ...]:
    part = "train" if split == "train" else "val"
    listing = top / "gt_sets" / f"{part}.txt"
    if not listing.is_file():
        return ()
    names = parsed(listing, "nyuv2", PAGE, lambda p: read_lines(p, lambda words: _inside(top, quantity, words[0])))
    return tuple(TargetSample(image, file, quantity) for image, file in names)


def _inside(top: Path, quantity: Quantity, name: str) -> tuple[Path, Path]:
    image = inside(top / "images", f"{name}.jpg")
    files = [inside(top / quantity, f"{name}{ending}") for ending in (".npy", ".png", ".jpg")]
    return image, next((file for file in files if file.is_file()), files[0])


def _of_scenes(top: Path, split: str) -> tuple[TargetSample, ...]:
    places = [top / "official_splits" / split, top / split, *([top / "sync"] if split == "train" else [])]
    for place in places:
        pictures = sorted(place.glob("*/rgb_*.jpg")) + sorted(place.glob("*/rgb_*.png"))
        if pictures:
            depth = (p.with_name(f"sync_depth_{p.stem.removeprefix('rgb_')}.png") for p in pictures)
            return tuple(
                TargetSample(p, d, "depth", _MILLIMETRES, p.parent.name) for p, d in zip(pictures, depth, strict=True)
            )
    return ()


def _of_lists(top: Path, split: str) -> tuple[TargetSample, ...]:
    part = "train" if split == "train" else "test"
    listing = next((f for f in (top / f"nyu2_{part}.csv", top / "data" / f"nyu2_{part}.csv") if f.is_file()), None)
    if listing is None:
        return ()
    base = top.parent if top.name == "data" else top
    scale = _BYTES if part == "train" else _MILLIMETRES

    def read(path: Path) -> tuple[TargetSample, ...]:
        rows = [line.split(",") for line in read_list(path).splitlines() if line.strip()]
        return tuple(TargetSample(inside(base, r[0].strip()), inside(base, r[1].strip()), "depth", scale) for r in rows)

    return parsed(listing, "nyuv2", PAGE, read)


CARDS = (
    DatasetCard("nyuv2-depth", "depth", read_nyuv2, ("train", "test"), page=PAGE),
    DatasetCard(
        "nyuv2-normals",
        "normals",
        lambda root, split: read_nyuv2(root, split, quantity="normals"),
        ("train", "test"),
        page=PAGE,
    ),
)
