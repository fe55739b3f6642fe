"""Which pictures a selection may look at: never those of a test split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.datasets.label_registry import CLASS_DATASETS, MASK_DATASETS, open_classes, open_masks
from diffeat.datasets.labelled import ClassSample, MaskSample
from diffeat.datasets.pairs import PointPair
from diffeat.datasets.registry import PAIR_DATASETS, open_pairs
from diffeat.errors import DatasetError, InvalidValueError, UnknownNameError, did_you_mean

TASKS = ("correspondence", "segmentation", "classification")
_TOYWORLD = {"correspondence": "toyworld", "segmentation": "toyworld-parts", "classification": "toyworld-classes"}


@dataclass(frozen=True)
class Labels:
    """Labelled pictures of one task.

    Attributes:
        task: One of :data:`TASKS`.
        dataset: Name of the dataset.
        train: Pictures or pairs to learn from; empty for correspondence.
        check: Pictures or pairs to score on.
        classes: Names of the labels.
    """

    task: str
    dataset: str
    train: tuple[Any, ...]
    check: tuple[Any, ...]
    classes: tuple[str, ...] = ()

    def images(self) -> list[Path]:
        """Every picture file once."""
        pairs = [p for p in self.check if isinstance(p, PointPair)]
        samples = [s for s in (*self.train, *self.check) if isinstance(s, (MaskSample, ClassSample))]
        paths = [path for p in pairs for path in (p.source, p.target)] + [s.image for s in samples]
        return list(dict.fromkeys(p for p in paths if isinstance(p, Path)))


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

    A validation split is used where there is one; else the training split is cut in two.

    Args:
        dataset: A dataset of ``diffeat eval``; ``toyworld`` serves all three tasks.
        root: Its folder.
        tasks: Which of them; by default what the dataset is for.
        categories: Of label maps, pictures of these categories only.
        most: Pairs, or pictures to score on, drawn at most; half as many label maps are learned from, to keep to few.
        seed: Of that draw.

    Raises:
        UnknownNameError: No such dataset or task.
        InvalidValueError: The dataset does not serve a task.
    """
    for task in tasks or ():
        if task not in TASKS:
            raise UnknownNameError(f"No task {task!r}. {did_you_mean(task, TASKS)}".rstrip())
    if dataset == "toyworld":
        return [_open(task, _TOYWORLD[task], root, categories, most, seed) for task in tasks or TASKS]
    kinds = dict(zip(TASKS, (PAIR_DATASETS, MASK_DATASETS, CLASS_DATASETS), strict=True))
    own = next((task for task, names in kinds.items() if dataset in names), None)
    if own is None:
        known = [*PAIR_DATASETS, *MASK_DATASETS, *CLASS_DATASETS]
        raise UnknownNameError(f"No dataset {dataset!r}. {did_you_mean(dataset, known)}".rstrip())
    if tasks and set(tasks) != {own}:
        raise InvalidValueError(f"Dataset {dataset!r} is labelled for {own}, not for {', '.join(tasks)}.")
    return [_open(own, dataset, root, categories, most, seed)]


def _open(task: str, dataset: str, root: str | Path | None, categories: Sequence[str], most: int, seed: int) -> Labels:
    if task == "correspondence":
        pairs = _pairs(dataset, root)
        return Labels(task, dataset, (), tuple(_some(pairs, most, seed)))

    def read(split: str) -> Any:
        if task != "segmentation":
            return open_classes(dataset, root, split)
        found = open_masks(dataset, root, split)
        return found.only(categories) if categories else found

    train = read("train")
    try:
        check = read("val").samples
        learn = train.samples
    except UnknownNameError:
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


def _pairs(dataset: str, root: str | Path | None) -> Sequence[PointPair]:
    for split in ("val", "trn"):
        try:
            return open_pairs(dataset, root, split).pairs
        except UnknownNameError:
            continue
        except InvalidValueError:
            break
    return open_pairs(dataset, root).pairs


def _some(items: Sequence[Any], count: int, seed: int) -> list[Any]:
    order = np.random.default_rng(seed).permutation(len(items))[:count]
    return [items[i] for i in order]
