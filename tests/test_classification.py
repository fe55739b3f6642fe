"""Classification probes and the datasets they read."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.datasets.cifar import read_cifar10
from diffeat.datasets.class_folders import read_class_folders
from diffeat.datasets.labelled import ClassDataset, ClassSample
from diffeat.errors import DatasetError, InvalidValueError
from diffeat.evaluation import TaskOptions
from diffeat.features import Picture
from diffeat.tasks.classification import evaluate_classification
from test_segmentation import Colours


class Streamed(Colours):
    def stream(self, images, prompts=None, *, on_error=None):
        yield from super().stream([Picture.of(i).told(prompts or "") for i in images])


def coloured(label: int, seed: int) -> np.ndarray:
    base = np.array([[200, 60, 60], [60, 60, 200], [60, 200, 60]])[label]
    return (base + np.random.default_rng(seed).normal(0, 30, (32, 32, 3))).clip(0, 255).astype(np.uint8)


def test_folders_of_classes(tmp_path: Path) -> None:
    for k, name in enumerate(("red", "blue", "green")):
        (tmp_path / name).mkdir()
        for i in range(8):
            Image.fromarray(coloured(k, i)).save(tmp_path / name / f"{i}.png")
    train, test = (read_class_folders(tmp_path, s) for s in ("train", "test"))
    assert (len(train), len(test)) == (18, 6)
    assert not {s.image for s in train} & {s.image for s in test}
    found = evaluate_classification((train, test), Streamed())
    assert found.value == 100
    assert found.per_class == {"blue": 100, "green": 100, "red": 100}
    assert found.interval() == (100, 100)
    with pytest.raises(InvalidValueError, match="give the answer away"):
        evaluate_classification((train, test), Streamed(), TaskOptions(prompts="category"))
    only = ClassDataset("x", "train", tuple(s for s in train if s.label != 2), train.classes)
    with pytest.raises(InvalidValueError, match="No training picture shows red"):
        evaluate_classification((only, test), Streamed())
    with pytest.raises(DatasetError, match="two classes"):
        read_class_folders(tmp_path / "red")


def test_cifar_in_both_layouts(tmp_path: Path) -> None:
    pictures = np.stack([coloured(i % 3, i) for i in range(20)])
    rows = pictures.transpose(0, 3, 1, 2).reshape(20, -1)
    python, binary = tmp_path / "cifar-10-batches-py", tmp_path / "bin"
    python.mkdir()
    binary.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        labels = [i % 3 for i in range(20)]
        (python / name).write_bytes(pickle.dumps({b"data": rows, b"labels": labels}))
        (binary / f"{name}.bin").write_bytes(
            b"".join(bytes([x]) + r.tobytes() for x, r in zip(labels, rows, strict=True))
        )
    one, other = read_cifar10(tmp_path, "test"), read_cifar10(binary, "test")
    for a, b, picture in zip(one, other, pictures, strict=True):
        assert np.array_equal(a.image, picture)
        assert np.array_equal(b.image, picture)
        assert a.label == b.label
    assert len(read_cifar10(tmp_path, "train")) == 100
    assert len(one.limited(2)) == 6
    found = evaluate_classification((read_cifar10(tmp_path, "train").limited(10), one), Streamed())
    assert found.value > 90
    (binary / "test_batch.bin").write_bytes(b"123")
    with pytest.raises(DatasetError, match="damaged"):
        read_cifar10(binary, "test")


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return (print, ("never",))

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "test_batch").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DatasetError, match="no place in a dataset"):
        read_cifar10(tmp_path, "test")


def test_accuracy_is_of_the_ridge_classifier() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=generator)
    y = (x[:, 0] + 0.3 * torch.randn(200, generator=generator) > 0).long()
    from sklearn.linear_model import RidgeClassifier
    from sklearn.preprocessing import StandardScaler

    from diffeat.tasks.classification.evaluate import fit_linear

    fit = fit_linear(x, y, 2, strengths=(0.1,))
    z = StandardScaler().fit_transform(x.numpy())
    expected = RidgeClassifier(alpha=0.1 * 200).fit(z, y.numpy()).predict(z)
    assert fit.strength == 0.1
    assert ((x @ fit.weight.T + fit.bias).argmax(1).numpy() == expected).all()


def test_samples_may_be_arrays() -> None:
    samples = tuple(ClassSample(coloured(i % 2, i), i % 2) for i in range(12))
    data = ClassDataset("x", "train", samples, ("a", "b"))
    assert evaluate_classification((data, data), Streamed()).value == 100
