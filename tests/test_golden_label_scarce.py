"""Label-scarce segmentation against the published code: labels, training table, votes, uncertainty, mIoU."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.datasets.label_scarce import LABELS
from diffeat.geometry import FrameSpec
from diffeat.geometry.nearest import resized_labels
from diffeat.tasks.segmentation import Confusion, PictureMaps, PixelEnsemble, TrainingPixels
from diffeat.tasks.segmentation.ensemble import Labelling, vote

ROOTS = [p for root in golden_roots() if (p := root / "gdf_label_scarce").is_dir()]
pytestmark = pytest.mark.skipif(not ROOTS, reason="the recorded numbers are not here")
SIZE = (256, 256)


class Recorded:
    def __init__(self) -> None:
        self.expected = json.loads((ROOTS[0] / "expected.json").read_text())
        self.tensors = load_file(ROOTS[0] / "tensors.safetensors")
        with np.load(ROOTS[0] / "labels_and_votes.npz") as arrays:
            self.arrays = dict(arrays)

    def maps(self, picture: str) -> PictureMaps:
        """The maps of a picture, those of every extractor joined as its file is."""
        height, width = self.arrays[f"e2e.label.{picture}"].shape
        frame = FrameSpec(mode="squash", size=64).frame((width, height))
        one, other = (
            PictureMaps.over([self.tensors[f"e2e.map.{k}.{m['name']}.{picture}"] for m in maps], frame, square=SIZE[0])
            for k, maps in enumerate(self.expected["e2e"]["feature_ids"])
        )
        return one + other

    def labels(self, picture: str) -> np.ndarray:
        return resized_labels(self.arrays[f"e2e.label.{picture}"], SIZE)

    def ensemble(self) -> PixelEnsemble:
        names = [f"e2e.model{k}." for k in range(self.expected["e2e"]["models"])]
        return PixelEnsemble.of(
            {key.removeprefix(name): v for key, v in self.tensors.items() if key.startswith(name)} for name in names
        )


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded()


def test_labels_are_resized_as_recorded(recorded: Recorded) -> None:
    for case in recorded.expected["label_resize"]:
        key, side = case["key"], case["resolution"]
        resized = resized_labels(recorded.arrays[f"{key}.in"], (side, side))
        assert (resized == recorded.arrays[f"{key}.out{side}"]).all(), case


def test_votes_and_uncertainty(recorded: Recorded) -> None:
    for case in recorded.expected["votes"]:
        labels, divergence = vote(recorded.tensors[f"{case['name']}.logits"])
        assert torch.equal(labels, recorded.tensors[f"{case['name']}.votes"].flatten().long())
        assert Labelling(labels[None], divergence[None]).unsure == pytest.approx(case["uncertainty"], abs=1e-5)


def test_mean_over_all_classes(recorded: Recorded) -> None:
    for case in recorded.expected["miou"]:
        confusion = Confusion.as_gdf(case["classes"])
        for k in range(case["pictures"]):
            confusion.add(*(recorded.arrays[f"{case['name']}.{part}{k}"] for part in ("gt", "pred")))
        hit = np.diagonal(confusion.counts)
        assert hit.tolist() == case["intersections"]
        assert confusion.miou == pytest.approx(case["miou"], abs=1e-14)
        ours = Confusion(case["classes"], confusion.counts)
        other = case["NOT_their_rule_ignored_pixels_left_out_and_present_classes_only"]
        assert ours.miou == pytest.approx(other, abs=1e-9)


def test_training_table(recorded: Recorded) -> None:
    pictures = [f"train{i}" for i in range(3)]
    pixels = TrainingPixels([recorded.maps(p) for p in pictures], [recorded.labels(p) for p in pictures])
    expected, tensors = recorded.expected["prepare_data"], recorded.tensors
    assert [len(pixels), pixels.channels] == expected["X_shape"]
    values, counts = pixels.labels.unique(return_counts=True)
    assert dict(zip(map(str, values.tolist()), counts.tolist(), strict=True)) == expected["y_count"]
    rows = tensors["prepare.row_index"]
    assert torch.equal(pixels.labels[rows], tensors["prepare.y_rows"].long())
    assert torch.allclose(pixels.features(rows), tensors["prepare.X_rows"], atol=1e-5)


def test_whole_evaluation(recorded: Recorded) -> None:
    expected, ensemble = recorded.expected["e2e"], recorded.ensemble()
    assert LABELS["horse21"][1].split(", ") == [
        line.removeprefix("IOU for ").rpartition(" ")[0] for line in expected["printed"][: expected["classes"]]
    ]
    confusion, unsure = Confusion.as_gdf(expected["classes"]), []
    for picture in (f"test{i}" for i in range(3)):
        truth, predicted = recorded.labels(picture), ensemble.predict(recorded.maps(picture))
        assert (truth == recorded.arrays[f"e2e.label256.{picture}"]).all()
        votes = recorded.arrays[f"e2e.votes.{picture}"]
        assert (predicted.labels.numpy() == votes).all()
        confusion.add(truth, predicted.labels.numpy())
        unsure.append(predicted.unsure)
    assert confusion.miou == pytest.approx(expected["miou"], abs=1e-14)
    assert confusion.iou == pytest.approx(expected["per_class_iou"], abs=1e-14)
    assert unsure == pytest.approx(expected["uncertainty_per_picture"], abs=1e-5)
