"""Every dataset by name. Adding one: a reader with its card, and a line here."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, overload

from diffeat.datasets import (
    ade20k,
    ap10k,
    camvid,
    cifar,
    cityscapes,
    class_folders,
    coco_stuff,
    csv_pairs,
    cub,
    davis,
    hpatches,
    label_scarce,
    nyuv2,
    own_folder,
    pascal,
    pf_pascal,
    spair,
    toyworld_labels,
    toyworld_spair,
    toyworld_surfaces,
)
from diffeat.datasets.card import DatasetCard, Kind
from diffeat.datasets.davis import VideoDataset
from diffeat.datasets.hpatches import PlanarDataset
from diffeat.datasets.labelled import ClassDataset, MaskDataset
from diffeat.datasets.measured import TargetDataset
from diffeat.datasets.pairs import PairDataset
from diffeat.errors import InvalidValueError, UnknownNameError, did_you_mean

_CARDS: tuple[DatasetCard, ...] = (
    spair.CARD,
    spair.LIST_CARD,
    spair.U_CARD,
    ap10k.CARD,
    pf_pascal.CARD,
    cub.CARD,
    toyworld_spair.CARD,
    csv_pairs.CARD,
    hpatches.POINTS_CARD,
    hpatches.CARD,
    *own_folder.CARDS,
    ade20k.CARD,
    cityscapes.CARD,
    pascal.CARD,
    pascal.CONTEXT_CARD,
    coco_stuff.CARD,
    camvid.CARD,
    *nyuv2.CARDS,
    *label_scarce.CARDS,
    toyworld_labels.PARTS_CARD,
    toyworld_labels.FIGURES_CARD,
    cifar.CARD,
    class_folders.CARD,
    toyworld_labels.CLASSES_CARD,
    *toyworld_surfaces.CARDS,
    davis.CARD,
)
DATASETS: dict[str, DatasetCard] = {card.name: card for card in _CARDS}


def get_card(name: str, kind: Kind | None = None) -> DatasetCard:
    """The card of a dataset.

    Args:
        kind: Only datasets of this kind.

    Raises:
        UnknownNameError: No such dataset.
        InvalidValueError: It is of another kind.
    """
    names = [n for n, card in DATASETS.items() if kind is None or card.kind == kind]
    if name not in DATASETS:
        raise UnknownNameError(f"No dataset {name!r}. {did_you_mean(name, names)}".rstrip())
    card = DATASETS[name]
    if name not in names:
        raise InvalidValueError(f"Dataset {name!r} holds {card.kind}, not {kind}. Those that do: {', '.join(names)}.")
    return card


@overload
def open_dataset(
    name: str, root: str | Path | None, split: str | None = None, *, kind: Literal["pairs"], **options: Any
) -> PairDataset: ...
@overload
def open_dataset(
    name: str, root: str | Path | None, split: str | None = None, *, kind: Literal["homographies"], **options: Any
) -> PlanarDataset: ...
@overload
def open_dataset(
    name: str, root: str | Path | None, split: str | None = None, *, kind: Literal["label maps"], **options: Any
) -> MaskDataset: ...
@overload
def open_dataset(
    name: str, root: str | Path | None, split: str | None = None, *, kind: Literal["classes"], **options: Any
) -> ClassDataset: ...
@overload
def open_dataset(
    name: str, root: str | Path | None, split: str | None = None, *, kind: Literal["videos"], **options: Any
) -> VideoDataset: ...
@overload
def open_dataset(
    name: str, root: str | Path | None, split: str | None = None, *, kind: Literal["depth", "normals"], **options: Any
) -> TargetDataset: ...
@overload
def open_dataset(
    name: str, root: str | Path | None, split: str | None = None, *, kind: Kind | None = None, **options: Any
) -> Any: ...
def open_dataset(
    name: str, root: str | Path | None, split: str | None = None, *, kind: Kind | None = None, **options: Any
) -> Any:
    """Read a dataset.

    Args:
        name: One of :data:`DATASETS`.
        root: Its folder; for ``csv`` and ``spair-json`` the file.
        split: Of datasets that have splits; the one that is scored by default.
        kind: Refuses datasets of another kind.
        options: What else the dataset's card offers, such as ``images`` of ``spair-json``; ``None`` leaves one out.

    Raises:
        UnknownNameError: No such dataset or split.
        InvalidValueError: No root, another kind, or an option that the dataset does not have.
        DatasetError: The dataset is missing, half unpacked or inconsistent.
    """
    card = get_card(name, kind)
    given = {option: value for option, value in options.items() if value is not None}
    for option in given:
        if option not in card.options:
            raise InvalidValueError(f"Dataset {name!r} has no option {option!r}; leave --{option} out.")
    if root is None:
        page = f" It comes from {card.page}" if card.page else ""
        raise InvalidValueError(f"Dataset {name!r} needs its folder or file: give it as root (--root PATH).{page}")
    chosen = card.split(split)
    return card.read(Path(root), **given) if chosen is None else card.read(Path(root), chosen, **given)


def dataset_names(*kinds: Kind) -> str:
    """Names by kind, for the help of commands: ``Pairs: spair, …. Classes: …``."""
    parts = []
    for kind in kinds or dict.fromkeys(card.kind for card in _CARDS):
        names = ", ".join(card.name for card in _CARDS if card.kind == kind)
        parts.append(f"{kind.capitalize()}: {names}.")
    return " ".join(parts)
