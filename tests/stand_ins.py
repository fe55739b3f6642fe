"""A small folder in the layout of every registered dataset, by the dataset's name."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import mini_datasets
from diffeat.datasets.class_names import CITYSCAPES, COCO_UNUSED
from diffeat.datasets.davis import write_toyworld_videos
from diffeat.datasets.label_scarce import LABELS
from diffeat.datasets.toyworld_spair import write_toyworld_pairs

GOLDEN = Path(__file__).parent / "golden" / "pck"


def picture(path: Path, size: tuple[int, int] = (40, 30), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def _spair(folder: Path) -> Path:
    return GOLDEN


def _pair_list(folder: Path) -> Path:
    rows = []
    for k in range(3):
        names = [picture(folder / f"{side}{k}.jpg", seed=k).name for side in "ab"]
        points = {key: [[1, 2], [3.5, 4]] for key in ("source_points", "target_points")}
        rows.append({"source_path": names[0], "target_path": names[1], **points})
    (folder / "pairs.json").write_text(json.dumps(rows))
    return folder / "pairs.json"


def _ap10k(folder: Path) -> Path:
    files = []
    for name in ("1", "2"):
        place = Path("Bovidae") / "antelope" / name
        picture(folder / "JPEGImages" / f"{place}.jpg")
        file = folder / "ImageAnnotation" / f"{place}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"keypoints": [v for k in range(17) for v in (k, k, 2)], "bbox": [1, 2, 30, 20]}))
        files.append(f"/elsewhere/ImageAnnotation/{place}.json")
    for split in ("trn", "val", "test"):
        pairs = folder / "PairAnnotation" / split
        pairs.mkdir(parents=True)
        text = json.dumps({"src_json_path": files[0], "trg_json_path": files[1]})
        (pairs / "000001-1-2:antelope.json").write_text(text)
    return folder


def _pf_pascal(folder: Path) -> Path:
    names = [picture(folder / "JPEGImages" / f"{name}.jpg").name for name in "ab"]
    for split in ("trn", "val", "test"):
        head = "source_image,target_image,class,XA,YA,XB,YB"
        (folder / f"{split}_pairs.csv").write_text(f"{head}\n{names[0]},{names[1]},8,1.5;2,3;4,5;6,7;8\n")
    return folder


def _cub(folder: Path) -> Path:
    names = [f"{s}/{s}_{k}.jpg" for s in ("001.Black", "002.Red") for k in range(4)]
    for name in names:
        picture(folder / "images" / name)
    (folder / "parts").mkdir()
    tables = {
        "images.txt": [f"{i + 1} {n}" for i, n in enumerate(names)],
        "train_test_split.txt": [f"{i + 1} {i % 2}" for i in range(8)],
        "bounding_boxes.txt": [f"{i + 1} 1.0 2.0 10.0 20.0" for i in range(8)],
        "parts/part_locs.txt": [f"{i + 1} {p} {p}.0 {i}.0 1" for i in range(8) for p in range(1, 6)],
    }
    for name, lines in tables.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    return folder


def _toyworld(folder: Path) -> Path:
    images = {"trn": 4, "val": 2, "test": 2}
    return write_toyworld_pairs(folder / "toy", size=64, classes=["horse", "car"], images=images, pairs=2)


def _csv(folder: Path) -> Path:
    for name in ("a.png", "b.png"):
        picture(folder / name)
    rows = "source,target,source_x,source_y,target_x,target_y\na.png,b.png,1,2,3,4\na.png,b.png,5,6.5,7,8\n"
    (folder / "pairs.csv").write_text(rows)
    return folder / "pairs.csv"


def _hpatches(folder: Path) -> Path:
    for name in ("i_one", "v_two"):
        for k in range(1, 7):
            picture(folder / name / f"{k}.ppm", seed=k)
            if k > 1:
                np.savetxt(folder / name / f"H_1_{k}", np.eye(3))
    return folder


def _label_scarce(folder: Path) -> Path:
    for split, count in (("train", 4), ("test", 3)):
        for k in range(count):
            file = picture(folder / "real" / split / f"{k}.png", seed=k)
            np.save(file.with_suffix(".npy"), np.random.default_rng(k).integers(0, 3, (30, 40)))
    return folder


def _cifar(folder: Path) -> Path:
    place = folder / "cifar-10-batches-py"
    place.mkdir()
    rows = np.random.default_rng(0).integers(0, 255, (10, 3072), dtype=np.uint8)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (place / name).write_bytes(pickle.dumps({b"data": rows, b"labels": list(range(10))}))
    return folder


def _folders(folder: Path) -> Path:
    for name in ("red", "blue"):
        for k in range(4):
            picture(folder / name / f"{k}.png", seed=k)
    return folder


def _davis(folder: Path) -> Path:
    root = write_toyworld_videos(folder / "davis", videos=2, frames=4, size=32)
    lists = root / "ImageSets" / "2017"
    (lists / "train.txt").write_text((lists / "val.txt").read_text())
    return root


CITYSCAPES_RAW = [number for _, number, _ in CITYSCAPES]
COCO_RAW = [number for number in range(182) if number not in COCO_UNUSED]

STAND_INS: dict[str, Callable[[Path], Path]] = {
    "spair": _spair,
    "spair-json": _pair_list,
    "spair-u": _spair,
    "ap10k": _ap10k,
    "pf-pascal": _pf_pascal,
    "cub": _cub,
    **dict.fromkeys(
        ("toyworld", "toyworld-parts", "toyworld-figures", "toyworld-classes", "toyworld-depth", "toyworld-normals"),
        _toyworld,
    ),
    "csv": _csv,
    **dict.fromkeys(("hpatches", "hpatches-points"), _hpatches),
    **dict.fromkeys(LABELS, _label_scarce),
    "cifar10": _cifar,
    "folders": _folders,
    "davis": _davis,
    "folder": mini_datasets.folder,
    "folder-depth": lambda folder: mini_datasets.measured(folder, "depth"),
    "folder-normals": lambda folder: mini_datasets.measured(folder, "normals"),
    "ade20k": mini_datasets.ade20k,
    "cityscapes": lambda folder: mini_datasets.cityscapes(folder, CITYSCAPES_RAW),
    "voc": lambda folder: mini_datasets.voc(folder, 21),
    "pascal-context": lambda folder: mini_datasets.voc(folder, 59, context=True),
    "coco-stuff": lambda folder: mini_datasets.coco_stuff(folder, COCO_RAW),
    "camvid": mini_datasets.camvid,
    "nyuv2-depth": mini_datasets.nyuv2,
    "nyuv2-normals": mini_datasets.nyuv2_tasks,
}
