"""DIFT's label propagation on stored maps: soft labels, masks, the size of the model's image, and its pixels."""

from __future__ import annotations

import json
from collections import deque

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.features import FeatureMap
from diffeat.geometry import Frame
from diffeat.tasks.propagation import (
    PropagationOptions,
    mask_on_grid,
    propagate_labels,
    propagate_video,
    strongest_label,
)

FOLDERS = [root / "dift_davis" for root in golden_roots() if (root / "dift_davis").is_dir()]
CASES = [
    pytest.param(folder, name, case, id=name)
    for folder in FOLDERS
    for name, case in json.loads((folder / "expected.json").read_text())["cases"].items()
]


@pytest.mark.parametrize(("folder", "name", "case"), CASES)
def test_soft_labels_and_masks(folder, name: str, case: dict) -> None:
    stored = load_file(folder / "tensors.safetensors")
    masks = np.load(folder / "masks.npz")
    frame = Frame((case["width"], case["height"]), tuple(case["model_wh"]), (0, 0, *case["model_wh"]))
    maps = [stored[f"{name}.map.{k}"].float() for k in range(case["frames"])]
    options = PropagationOptions(
        radius=case["size_mask_neighborhood"],
        topk=case["topk"],
        temperature=case["temperature"],
        last_frames=case["n_last_frames"],
    )
    first = torch.from_numpy(masks[f"{name}.first_mask"].astype(np.int64))
    w, h = case["lattice_wh"]
    small = mask_on_grid(first, frame, (h, w))
    classes = int(small.max()) + 1
    labels = (small[None] == torch.arange(classes)[:, None, None]).float()
    assert (labels.numpy() == masks[f"{name}.first_onehot"]).all()

    features = [FeatureMap({"x": m}, frame, str(k), "", {}) for k, m in enumerate(maps)]
    results = list(propagate_video(features, first, options))
    cell = 2 * case["width"] * case["height"] / (h * w)
    recent: deque[tuple[torch.Tensor, torch.Tensor]] = deque(maxlen=options.last_frames)
    for k in range(1, case["frames"]):
        context = [(maps[0], labels), *recent]
        soft = propagate_labels(maps[k], [f for f, _ in context], [m for _, m in context], options)
        recent.append((maps[k], soft))
        off = ((soft - stored[f"{name}.soft.{k}"]).abs() > 1e-5).any(0)
        assert off.float().mean() <= 0.002
        expected = masks[f"{name}.mask.{k}"]
        allowed = case["mask_pixels_with_margin_below_1e-4"][k - 1] + int(off.sum()) * cell
        assert (strongest_label(soft, frame).numpy() != expected).sum() <= allowed
        assert (results[k - 1].numpy() != expected).sum() <= allowed
