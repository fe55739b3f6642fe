"""CIFAR-10 in its published layout: ``cifar-10-batches-py`` (pickled arrays) or ``cifar-10-batches-bin``."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from diffeat.datasets.card import DatasetCard
from diffeat.datasets.labelled import ClassDataset, ClassSample
from diffeat.datasets.pairs import need, parsed
from diffeat.errors import UnknownNameError
from diffeat.files import read_bytes

NAME, PAGE = "CIFAR-10", "https://www.cs.toronto.edu/~kriz/cifar.html"
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_FILES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_ROW = 1 + 3 * 32 * 32


def read_cifar10(root: str | Path, split: str = "train") -> ClassDataset:
    """Read a split: 32×32 pictures as arrays.

    Args:
        root: The unpacked folder, or the one that holds it.
        split: ``train`` or ``test``.

    Raises:
        DatasetError: A file is missing or damaged.
        UnknownNameError: No such split.
    """
    if split not in _FILES:
        raise UnknownNameError(f"{NAME} has no split {split!r}: train or test.")
    folder = Path(root)
    for inner in ("cifar-10-batches-py", "cifar-10-batches-bin"):
        if (folder / inner).is_dir():
            folder = folder / inner
            break
    binary = (folder / f"{_FILES[split][0]}.bin").is_file()
    samples = []
    for name in _FILES[split]:
        path = need(folder / (f"{name}.bin" if binary else name), NAME, PAGE)
        samples += parsed(path, NAME, PAGE, _binary if binary else _pickled)
    return ClassDataset("cifar10", split, tuple(samples), NAMES)


def _binary(path: Path) -> list[ClassSample]:
    raw = np.frombuffer(read_bytes(path, "batch", most=1 << 28), np.uint8)
    if len(raw) == 0 or len(raw) % _ROW:
        raise ValueError(f"it is damaged: {len(raw)} bytes, not a multiple of {_ROW}")
    rows = raw.reshape(-1, _ROW)
    return _samples(rows[:, 1:], rows[:, 0])


def _pickled(path: Path) -> list[ClassSample]:
    data = _Arrays(io.BytesIO(read_bytes(path, "batch", most=1 << 28)), encoding="bytes").load()
    return _samples(np.asarray(data[b"data"], np.uint8), data[b"labels"])


def _samples(rows: np.ndarray, labels: Iterable[int]) -> list[ClassSample]:
    pictures = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    samples = [ClassSample(image, int(label)) for image, label in zip(pictures, labels, strict=True)]
    for number, sample in enumerate(samples, 1):
        if not 0 <= sample.label < len(NAMES):
            raise ValueError(f"picture {number} has label {sample.label}, but there are {len(NAMES)} classes")
    return samples


class _Arrays(pickle.Unpickler):
    """Unpickles plain values and numpy arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype", "scalar", "_frombuffer"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it holds {module}.{name}, which has no place in a dataset")


CARD = DatasetCard("cifar10", "classes", read_cifar10, tuple(_FILES), page=PAGE)
