"""Cityscapes: ``leftImg8bit/SPLIT/CITY/NAME_leftImg8bit.png`` and ``gtFine/SPLIT/CITY/NAME_gtFine_labelTrainIds.png``.

The 19 classes that are scored are read from ``labelTrainIds`` where the dataset's own script made them, and else from
the raw ``labelIds``; everything else is void.
"""

from __future__ import annotations

from pathlib import Path

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.class_names import CITYSCAPES
from diffeat.datasets.coding import IGNORE, Coding
from diffeat.datasets.labelled import MaskDataset, with_pictures
from diffeat.datasets.pairs import need
from diffeat.errors import UnknownNameError, did_you_mean

PAGE = "https://www.cityscapes-dataset.com"
_TRAINED = Coding(tuple((k, k) for k in range(len(CITYSCAPES))), void=(IGNORE,))
_RAW = Coding(
    tuple((number, k) for k, (_, number, _) in enumerate(CITYSCAPES)),
    void=(*(n for n in range(34) if n not in {number for _, number, _ in CITYSCAPES}), IGNORE),
)
_KINDS = ("gtFine", "gtCoarse")


def read_cityscapes(root: str | Path, split: str = "val", annotations: str = "gtFine") -> MaskDataset:
    """Read the pictures of a split.

    Args:
        annotations: ``gtFine`` or ``gtCoarse``.

    Raises:
        DatasetError: A folder or a picture is missing.
        UnknownNameError: No such annotations.
    """
    if annotations not in _KINDS:
        raise UnknownNameError(
            f"Cityscapes has no annotations {annotations!r}. {did_you_mean(annotations, _KINDS)}".rstrip()
        )
    folder = need(Path(root) / annotations / split, "cityscapes", PAGE)
    images = need(Path(root) / "leftImg8bit" / split, "cityscapes", PAGE)
    by_kind = {k: sorted(folder.glob(f"*/*_{annotations}_{k}.png")) for k in ("labelTrainIds", "labelIds")}
    trained = len(by_kind["labelTrainIds"]) >= len(by_kind["labelIds"])
    kind = "labelTrainIds" if trained else "labelIds"
    pairs = []
    for mask in by_kind[kind]:
        name = mask.name.removesuffix(f"_{annotations}_{kind}.png")
        pairs.append((images / mask.parent.name / f"{name}_leftImg8bit.png", mask))
    samples = with_pictures("cityscapes", pairs, _TRAINED if trained else _RAW, folder, PAGE)
    names, colours = tuple(n for n, _, _ in CITYSCAPES), tuple(c for _, _, c in CITYSCAPES)
    return MaskDataset("cityscapes", split, samples, names, (f"labels of {kind}",), colours)


CARD = DatasetCard(
    "cityscapes",
    "label maps",
    read_cityscapes,
    ("train", "val"),
    scored="val",
    page=PAGE,
    options={"annotations": "gtFine (the default) or gtCoarse."},
)
