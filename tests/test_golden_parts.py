"""Parts without words against numbers of the published codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from conftest import golden_roots
from diffeat.tasks.parts.affinity import affinity_of
from diffeat.tasks.parts.cuts import bipartition, normalised_cuts
from diffeat.tasks.parts.merging import AttentionRows, anchors_of, first_matches, merge_proposals


def _cases(name: str) -> list:
    return [pytest.param(p, id=p.name) for root in golden_roots() for p in sorted((root / name).glob("*/"))]


def _renamed(labels: np.ndarray) -> list[int]:
    names: dict[int, int] = {}
    return [names.setdefault(int(label), len(names)) for label in labels.ravel()]


@pytest.mark.parametrize("folder", _cases("normalised_cut"))
def test_normalised_cuts(folder: Path) -> None:
    features = load_file(folder / "inputs.safetensors")["features"]
    expected = load_file(folder / "expected.safetensors")
    rows = features.reshape(len(features), -1).T
    for setting in json.loads((folder / "meta.json").read_text())["settings"]:
        wanted = {
            k.removeprefix(f"{setting['name']}."): v for k, v in expected.items() if k.startswith(setting["name"] + ".")
        }
        affinity = affinity_of(rows, setting["alpha"])
        assert affinity is not None
        if "affinity" in wanted:
            assert np.abs(affinity.block(np.arange(affinity.size)) - wanted["affinity"]).max() < 1e-5
        first = bipartition(affinity)
        if folder.name != "random_16" or setting["alpha"] < 10:
            vector, gap = wanted["first_eigenvector"], setting["check_own_float64"]["first_eigen_gap"]
            rounding = 4e-7 / gap  # of float32, in which they solved: neighbouring eigenvectors mix
            assert np.abs(first.vector - vector).max() < max(1e-4, rounding) * np.abs(vector).max()
            assert np.abs(first.values - wanted["first_cut_values"]).max() < 1e-5
        cuts = normalised_cuts(affinity, setting["tau"], isolated="drop")
        if folder.name == "random_16":
            continue
        assert len(cuts.masks) == setting["accepted_splits"]
        assert (cuts.masks.reshape(wanted["masks"].shape) == wanted["masks"]).all()
        assert (cuts.labels.reshape(wanted["labels"].shape) == wanted["labels"]).all()


class _Layer:
    """A recorded self-attention."""

    def __init__(self, query: np.ndarray, key: np.ndarray, side: int) -> None:
        self.grid = (side, side)
        self.query, self.key = torch.from_numpy(query), torch.from_numpy(key)

    def rows(self, places: torch.Tensor) -> torch.Tensor:
        logits = self.query[:, places] @ self.key.transpose(1, 2) / self.query.shape[-1] ** 0.5
        return logits.softmax(-1).mean(0, keepdim=True)


@pytest.mark.parametrize("folder", _cases("attention_merging"))
def test_attention_merging(folder: Path) -> None:
    stored, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    meta = json.loads((folder / "meta.json").read_text())
    rows = AttentionRows([_Layer(stored[f"q_{s}"], stored[f"k_{s}"], s) for s in (64, 32, 16, 8)])
    anchors = anchors_of(rows.grid, meta["num_points"])
    assert (anchors.numpy() == expected["anchor_grid"]).all()
    own = rows.rows(anchors[:, 0] * 64 + anchors[:, 1]).numpy()
    wanted = expected["aggregated_anchor_rows"]
    assert np.abs(own - wanted).max() <= 1e-6 * np.abs(wanted).max()
    near, proposals = first_matches(rows, anchors, meta["kl_threshold"][0])
    bits = np.unpackbits(expected["first_match"], axis=1).astype(bool)
    assert (near.numpy() != bits).sum() <= 20
    for i, threshold in enumerate(meta["kl_threshold"][1:], start=1):
        proposals = merge_proposals(proposals, threshold)
        wanted = expected[f"proposals_iter{i}"].reshape(len(proposals), -1)
        assert np.abs(proposals.numpy() - wanted).max() <= 1e-3 * np.abs(wanted).max()
    large = torch.nn.functional.interpolate(proposals.unflatten(1, (1, 64, 64)), scale_factor=8, mode="bilinear")
    assert (large[:, 0].argmax(0).numpy() == expected["labels_512"]).mean() > 0.999
