"""Small datasets of label maps, depth and normals in the layouts of the real ones, drawn from labels that are known.

Every function writes ``count`` pictures a part and returns the dataset's root; the labels are :func:`truth`'s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (48, 32)


def truth(k: int, classes: int) -> np.ndarray:
    """Labels (32, 48) of picture ``k``: four classes in quarters, and a column of void (255)."""
    labels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    for i, (rows, columns) in enumerate((r, c) for r in (np.s_[:16], np.s_[16:]) for c in (np.s_[:24], np.s_[24:])):
        labels[rows, columns] = (k * 7 + i * 3) % classes
    labels[:, 20] = 255
    return labels


def photo(path: Path, labels: np.ndarray) -> Path:
    """A picture whose grey tells the labels."""
    noise = np.random.default_rng(int(labels.sum()) % 1000).integers(0, 30, (*labels.shape, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((labels[..., None] % 20 * 10 + noise).astype(np.uint8)).save(path)
    return path


def save(path: Path, values: np.ndarray, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values.astype(np.uint8) if values.dtype != np.uint16 else values, mode).save(path)
    return path


def table(labels: np.ndarray, numbers: Sequence[int], void: int) -> np.ndarray:
    """The number that stands for each label."""
    lut = np.full(256, void)
    lut[: len(numbers)] = numbers
    return lut[labels]


def ade20k(root: Path, count: int = 3) -> Path:
    for split, short in (("training", "train"), ("validation", "val")):
        for k in range(count):
            labels, name = truth(k, 150), f"ADE_{short}_{k:08d}"
            photo(root / "ADEChallengeData2016" / "images" / split / f"{name}.jpg", labels)
            mask = table(labels, range(1, 151), 0)
            save(root / "ADEChallengeData2016" / "annotations" / split / f"{name}.png", mask)
    return root


def ade20k_full(root: Path, names: Sequence[str], count: int = 3) -> Path:
    """Names of objects are numbered 1001, 1002 …; an object of another name lies in the void."""
    for split, short in (("training", "train"), ("validation", "val")):
        for k in range(count):
            labels = truth(k, len(names))
            place = root / "ADE20K_2021_17_01" / "images" / "ADE" / split / "urban" / "street"
            name = f"ADE_{short}_{k:08d}"
            photo(place / f"{name}.jpg", labels)
            numbers = table(labels, range(1001, 1001 + len(names)), 77)
            channels = [numbers // 256 * 10, numbers % 256, np.full_like(numbers, 5)]
            save(place / f"{name}_seg.png", np.stack(channels, -1))
            save(place / f"{name}_parts_1.png", np.stack(channels, -1))
            objects = [{"name": f"{n}, another word", "name_ndx": 1001 + i} for i, n in enumerate(names)]
            objects.append({"name": "caf\xe9 counter", "name_ndx": 77})
            text = json.dumps({"annotation": {"object": objects}}, ensure_ascii=False)
            (place / f"{name}.json").write_text(text, encoding="latin-1")
    return root


def cityscapes(root: Path, raw: Sequence[int], count: int = 2, *, train_ids: bool = True) -> Path:
    for split in ("train", "val"):
        for k in range(count):
            labels, name = truth(k, 19), f"aachen_{k:06d}_000019"
            photo(root / "leftImg8bit" / split / "aachen" / f"{name}_leftImg8bit.png", labels)
            place = root / "gtFine" / split / "aachen"
            save(place / f"{name}_gtFine_labelIds.png", table(labels, raw, 3))
            save(place / f"{name}_gtFine_color.png", np.zeros((*labels.shape, 3)))
            if train_ids:
                save(place / f"{name}_gtFine_labelTrainIds.png", labels)
    return root


def voc(root: Path, classes: int, *, context: bool = False, count: int = 2) -> Path:
    base = root / "VOCdevkit" / ("VOC2010" if context else "VOC2012")
    masks, lists = (
        ("SegmentationClassContext", "SegmentationContext") if context else ("SegmentationClass", "Segmentation")
    )
    for s, split in enumerate(("train", "val")):
        names = [f"2007_{s}{k:05d}" for k in range(count)]
        for k, name in enumerate(names):
            labels = truth(k, classes)
            photo(base / "JPEGImages" / f"{name}.jpg", labels)
            mask = table(labels, range(1, classes + 1), 0) if context else labels
            save(base / masks / f"{name}.png", mask, None if context else "P")
        listing = base / "ImageSets" / lists / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("\n".join(names) + "\n")
    if not context:
        for name, parts in (("trainval", ("train", "val")), ("trainaug", ("train",))):
            texts = [(base / "ImageSets" / lists / f"{part}.txt").read_text() for part in parts]
            (base / "ImageSets" / lists / f"{name}.txt").write_text("".join(texts))
    return root


def context_mat(root: Path, names: Sequence[str], count: int = 2) -> Path:
    """As published: 459 names, of which the wanted ones stand at every seventh number."""
    from scipy.io import savemat

    spelled = [f"other{k}" for k in range(1, 460)]
    numbers = [7 * k + 3 for k in range(len(names))]
    for number, name in zip(numbers, names, strict=True):
        spelled[number - 1] = name.replace(" ", "")
    (root / "trainval").mkdir(parents=True)
    (root / "labels.txt").write_text("".join(f"{k}: {name}\n" for k, name in enumerate(spelled, 1)))
    for s, split in enumerate(("train", "val")):
        files = [f"2008_{s}{k:05d}" for k in range(count)]
        for k, name in enumerate(files):
            labels = truth(k, len(names))
            photo(root / "JPEGImages" / f"{name}.jpg", labels)
            savemat(root / "trainval" / f"{name}.mat", {"LabelMap": table(labels, numbers, 2).astype(np.uint16)})
        (root / f"{split}.txt").write_text("\n".join(files) + "\n")
    return root


def coco_stuff(root: Path, numbers: Sequence[int], count: int = 2, *, train_ids: bool = False) -> Path:
    for split in ("train", "val"):
        for k in range(count):
            labels, name = truth(k, 171), f"{k:012d}"
            photo(root / "images" / f"{split}2017" / f"{name}.jpg", labels)
            folder = root / ("annotations" if train_ids else "stuffthingmaps") / f"{split}2017"
            save(folder / f"{name}.png", table(labels, numbers, 255))
            if train_ids:
                save(folder / f"{name}_labelTrainIds.png", labels)
    return root


def coco_stuff_10k(root: Path, numbers: Sequence[int], count: int = 2) -> Path:
    from scipy.io import savemat

    for s, split in enumerate(("train", "test")):
        names = [f"COCO_train2014_{s}{k:011d}" for k in range(count)]
        for k, name in enumerate(names):
            labels = truth(k, 171)
            photo(root / "images" / f"{name}.jpg", labels)
            (root / "annotations").mkdir(exist_ok=True)
            mask = table(labels, [n + 1 for n in numbers], 0)
            savemat(root / "annotations" / f"{name}.mat", {"S": mask.astype(np.uint8)})
        (root / "imageLists").mkdir(exist_ok=True)
        (root / "imageLists" / f"{split}.txt").write_text("\n".join(names) + "\n")
    return root


def camvid(root: Path, count: int = 2) -> Path:
    for split in ("train", "val", "test"):
        for k in range(count):
            labels, name = truth(k, 11), f"0001TP_{k:06d}"
            photo(root / split / f"{name}.png", labels)
            save(root / f"{split}annot" / f"{name}.png", table(labels, range(11), 11))
    return root


def folder(root: Path, classes: Sequence[str] = ("wall", "floor", "door"), count: int = 12) -> Path:
    """One's own folder, without parts: numbers in grey pictures."""
    for k in range(count):
        labels = truth(k, len(classes))
        photo(root / "images" / f"room {k:02d}.jpg", labels)
        save(root / "masks" / f"room {k:02d}.png", labels)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return root


def measured(root: Path, quantity: str, count: int = 12) -> Path:
    """One's own folder with depth in millimetres, or with normals."""
    for k in range(count):
        photo(root / "images" / f"{k:02d}.jpg", truth(k, 4))
        if quantity == "depth":
            save(root / "depth" / f"{k:02d}.png", np.arange(32 * 48, dtype=np.uint16).reshape(32, 48) + k)
        else:
            save(root / "normals" / f"{k:02d}.npy", unit_normals(k))
    return root


def unit_normals(seed: int) -> np.ndarray:
    """(32, 48, 3) float32."""
    values = np.random.default_rng(seed).normal(size=(32, 48, 3))
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)
