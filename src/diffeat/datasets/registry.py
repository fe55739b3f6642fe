"""Correspondence datasets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from diffeat.datasets.ap10k import read_ap10k
from diffeat.datasets.csv_pairs import read_csv_pairs
from diffeat.datasets.cub import read_cub
from diffeat.datasets.geometric import read_hpatches, read_motorcycle, read_opencv_pairs
from diffeat.datasets.pairs import PairDataset
from diffeat.datasets.pf_pascal import read_pf_pascal
from diffeat.datasets.spair import read_pair_list, read_spair
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean

#: Datasets, the protocol their papers use, and whether they have splits.
PAIR_DATASETS: dict[str, str] = {
    "spair": "spair",
    "spair-json": "hyperfeatures",
    "ap10k": "ap10k-intra-species",
    "pf-pascal": "pf-pascal",
    "cub": "spair",
    "toyworld": "spair",
    "csv": "spair",
    "hpatches": "geometry",
    "motorcycle": "geometry",
    "opencv": "geometry",
}
_SPLIT: dict[str, Callable[[Path, str], PairDataset]] = {
    "spair": read_spair,
    "toyworld": read_spair,
    "ap10k": read_ap10k,
    "pf-pascal": read_pf_pascal,
    "cub": read_cub,
}


def open_pairs(
    name: str, root: str | Path | None, split: str | None = None, images: str | Path | None = None
) -> PairDataset:
    """Read a correspondence dataset.

    Args:
        name: One of :data:`PAIR_DATASETS`.
        root: Its folder; for ``csv`` and ``spair-json`` the file.
        split: Of datasets that have splits; ``test`` by default.
        images: For ``spair-json``, the folder that its paths are relative to (default: the folder of the file).

    Raises:
        UnknownNameError: No such dataset or split.
        DatasetError: The dataset is missing, half unpacked or inconsistent.
    """
    if name not in PAIR_DATASETS:
        raise UnknownNameError(f"No correspondence dataset {name!r}. {did_you_mean(name, PAIR_DATASETS)}")
    if name == "opencv":
        return read_opencv_pairs(root)
    if root is None:
        raise InvalidValueError(f"Dataset {name!r} needs its folder or file: give --root PATH.")
    path = Path(root)
    if name in _SPLIT:
        return replace(_SPLIT[name](path, split or "test"), name=name)
    if name == "hpatches":
        return read_hpatches(path, split or "all")
    if split is not None:
        raise InvalidValueError(f"Dataset {name!r} has no splits; leave --split out.")
    if name == "csv":
        return read_csv_pairs(path)
    if name == "spair-json":
        return read_pair_list(path, images or path.parent)
    return read_motorcycle(path)
