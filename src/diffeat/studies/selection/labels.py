"""Which pictures a selection may look at: never those of a test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from diffeat.datasets.card import Kind
from diffeat.datasets.labelled import ClassDataset, ClassSample, MaskDataset, MaskSample
from diffeat.datasets.pairs import PointPair
from diffeat.datasets.registry import get_card, open_dataset
from diffeat.errors import DatasetError, InvalidValueError, UnknownNameError, did_you_mean

#: Tasks to rank by, and the kind of dataset that each needs.
TASKS: dict[str, Kind] = {
    "correspondence": "pairs",
    "segmentation": "label maps",
    "classification": "classes",
    "parts": "label maps",
}
#: Those of a dataset that serves all, where none is named; parts, which need no labels to learn from, are asked for.
_USUAL = ("correspondence", "segmentation", "classification")
Sample = PointPair | MaskSample | ClassSample
S = TypeVar("S", PointPair, MaskSample, ClassSample)
T = TypeVar("T")
_TOYWORLD = {
    "correspondence": "toyworld",
    "segmentation": "toyworld-parts",
    "classification": "toyworld-classes",
    "parts": "toyworld-parts",
}


@dataclass(frozen=True)
class Labels:
    """Labelled pictures of one task.

    Attributes:
        train: Pictures or pairs to learn from; empty for correspondence.
        check: Pictures or pairs to score on.
    """

    task: str
    dataset: str
    train: tuple[Sample, ...]
    check: tuple[Sample, ...]
    classes: tuple[str, ...] = ()

    def images(self) -> list[Path]:
        """Every picture file once."""
        images = (
            image
            for s in (*self.train, *self.check)
            for image in ((s.source, s.target) if isinstance(s, PointPair) else (s.image,))
        )
        return list(dict.fromkeys(image for image in images if isinstance(image, Path)))

    def parts(self, kind: type[S]) -> tuple[list[S], list[S]]:
        """What to learn from and what to score on, of one kind."""
        train, check = ([s for s in part if isinstance(s, kind)] for part in (self.train, self.check))
        return train, check


def open_labels(
    dataset: str,
    root: str | Path | None,
    tasks: Sequence[str] | None = None,
    *,
    categories: Sequence[str] = (),
    most: int = 60,
    seed: int = 0,
) -> list[Labels]:
    """The labelled pictures of a dataset, for the tasks it can serve.

    The validation split is used where there is one; else the training split, cut in two where something is learned.

    Args:
        dataset: A dataset of ``diffeat eval``; ``toyworld`` serves all three tasks.
        tasks: Which of them; by default what the dataset is for.
        categories: Of label maps, pictures of these categories only.
        most: Pairs, or pictures to score on, drawn at most; half as many label maps are learned from, to keep to few.

    Raises:
        UnknownNameError: No such dataset or task.
        InvalidValueError: The dataset does not serve a task.
    """
    for task in tasks or ():
        if task not in TASKS:
            raise UnknownNameError(f"No task {task!r}. {did_you_mean(task, TASKS)}".rstrip())
    if dataset == "toyworld":
        return [_open(task, _TOYWORLD[task], root, categories, most, seed) for task in tasks or _USUAL]
    kind = get_card(dataset).kind
    own = [task for task, needed in TASKS.items() if needed == kind]
    if not own:
        raise InvalidValueError(f"Dataset {dataset!r} holds {kind}; there is no probe for them.")
    if not set(tasks or ()) <= set(own):
        raise InvalidValueError(
            f"Dataset {dataset!r} is labelled for {' and '.join(own)}, not for {', '.join(tasks or ())}."
        )
    return [_open(task, dataset, root, categories, most, seed) for task in tasks or own[:1]]


def open_several(
    datasets: Sequence[str], roots: Sequence[str | Path | None], tasks: Sequence[str] | None = None, **limits: Any
) -> list[Labels]:
    """The labelled pictures of several datasets (a simple and a complex one, say), which count alike in a ranking.

    Args:
        roots: One for each, or one for all.
        limits: As :func:`open_labels` takes them.

    Raises:
        UnknownNameError: No such dataset or task.
        InvalidValueError: Another number of roots, a dataset that is there twice, or that does not serve a task.
    """
    if len(roots) not in (1, len(datasets)):
        raise InvalidValueError(
            f"{len(datasets)} datasets ({', '.join(datasets)}) take as many roots in their order, or one for all, got "
            f"{len(roots)}."
        )
    places = [*roots] * (len(datasets) // len(roots))
    parts = [
        part for name, root in zip(datasets, places, strict=True) for part in open_labels(name, root, tasks, **limits)
    ]
    if len({(part.task, part.dataset) for part in parts}) < len(parts):
        raise InvalidValueError(f"A dataset counts once for a task, got {', '.join(datasets)}.")
    return parts


def _open(task: str, dataset: str, root: str | Path | None, categories: Sequence[str], most: int, seed: int) -> Labels:
    card = get_card(dataset)
    if task == "correspondence":
        pairs = open_dataset(dataset, root, card.split_to_choose_on("val", "train"), kind="pairs")
        return Labels(task, dataset, (), tuple(_some(pairs, most, seed)))

    def read(split: str) -> MaskDataset | ClassDataset:
        part = open_dataset(dataset, root, split)
        return part.only(categories) if categories and TASKS[task] == "label maps" else part

    train = read("train")
    if "val" in card.splits:
        learn, check = train.samples, read("val").samples
    else:
        shuffled = _some(train.samples, len(train), seed)
        cut = max(1, 2 * len(shuffled) // 3)
        learn, check = shuffled[:cut], shuffled[cut:]
    if not learn or not check:
        raise DatasetError(f"{dataset} has too few labelled pictures to learn from some and score on others.")
    check = [s for s in check if not isinstance(s, ClassSample) or isinstance(s.image, Path)]
    if not check:
        raise InvalidValueError(f"{dataset} holds arrays, not picture files; a selection needs files.")
    few = max(1, most // 2) if task == "segmentation" else 4 * most
    return Labels(
        task, dataset, tuple(_some(learn, few, seed)), tuple(_some(check, 2 * most, seed)), tuple(train.classes)
    )


def _some(items: Sequence[T], count: int, seed: int) -> list[T]:
    order = np.random.default_rng(seed).permutation(len(items))[:count]
    return [items[i] for i in order]
