"""Few pictures with fine part labels, in the layout of ddpm-segmentation (Baranchuk et al., ICLR 2022).

``real/train`` and ``real/test`` hold pictures and, under the same name, label maps as ``.npy``.
"""

from __future__ import annotations

from pathlib import Path

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.labelled import MaskDataset, MaskSample
from diffeat.datasets.pairs import need
from diffeat.errors import DatasetError, UnknownNameError, did_you_mean
from diffeat.geometry.files import IMAGE_SUFFIXES

PAGE = "https://github.com/yandex-research/ddpm-segmentation"
#: Number of labels of each dataset, background included.
CLASSES = {
    "horse21": 21,
    "cat15": 15,
    "ffhq34": 34,
    "bedroom28": 28,
    "ade-bedroom30": 30,
    "celeba19": 19,
}


def read_label_scarce(root: str | Path, name: str, split: str = "train") -> MaskDataset:
    """Read the pictures of a split that have labels.

    Args:
        root: The dataset's folder (which holds ``real``), or ``real`` itself.
        name: One of :data:`CLASSES`.
        split: ``train`` or ``test``.

    Raises:
        DatasetError: A folder is missing or holds no labelled picture.
        UnknownNameError: No such dataset or split.
    """
    if name not in CLASSES:
        raise UnknownNameError(f"No label-scarce dataset {name!r}. {did_you_mean(name, CLASSES)}".rstrip())
    if split not in ("train", "test"):
        raise UnknownNameError(f"{name} has no split {split!r}: train or test.")
    base = Path(root)
    folder = need(base / "real" / split if (base / "real").is_dir() else base / split, name, PAGE)
    pictures = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    found = tuple(MaskSample(p, p.with_suffix(".npy"), name) for p in pictures if p.with_suffix(".npy").is_file())
    if not found:
        raise DatasetError(
            f"{folder} holds {len(pictures)} pictures and no label map of the same name (.npy). {name} comes from "
            f"{PAGE}"
        )
    missing = len(pictures) - len(found)
    notes = (f"{missing} pictures without labels are left out ({split})",) if missing else ()
    count = CLASSES[name]
    names = ("background", *(f"part {i}" for i in range(1, count)))
    return MaskDataset(name, split, found, names, notes)


CARDS = tuple(
    DatasetCard(
        name,
        "label maps",
        lambda root, split, name=name: read_label_scarce(root, name, split),
        ("train", "test"),
        page=PAGE,
    )
    for name in CLASSES
)
