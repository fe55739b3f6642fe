"""DIFT's label propagation on stored maps: soft labels, masks, the size of the model's image, and its pixels."""

from __future__ import annotations

import json
from collections import deque

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.errors import UnknownNameError
from diffeat.extraction import Reading
from diffeat.features import FeatureMap
from diffeat.geometry import Frame, open_image
from diffeat.tasks.propagation import (
    PropagationOptions,
    mask_on_grid,
    propagate_labels,
    propagate_video,
    strongest_label,
)
from diffeat.tasks.registry import TASKS, options_for

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


@pytest.mark.parametrize("folder", FOLDERS)
def test_size_and_pixels_of_the_models_image(folder) -> None:
    stored, expected = load_file(folder / "tensors.safetensors"), json.loads((folder / "expected.json").read_text())
    spec = Reading.load("dift-sd21-davis").frame
    for size in expected["sizes"]:
        frame = spec.frame((size["width"], size["height"]), multiple=8)
        assert frame.model == (size["model_width"], size["model_height"])
        for factor in (8, 16, 32):
            assert [side // factor for side in frame.model] == size[f"seg_lattice_{factor}"]
    picture = open_image(folder / expected["frame"]["file"])
    pixels = spec.frame(picture.size).pixels(picture)
    channel, y, x = stored["frame.index_cyx"].T.long()
    assert (pixels[channel, y, x] - stored["frame.value"]).abs().max() <= expected["frame"]["one_grey_step"] + 1e-6


@pytest.mark.parametrize("size", [(832, 480), (160, 96)])
def test_pixels_are_opencvs_where_they_shrink_too(size) -> None:
    cv2 = pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 256, (480, 854, 3), dtype=np.uint8)
    frame = Frame((854, 480), size, (0, 0, *size), "opencv-bilinear")
    result = (frame.pixels(Image.fromarray(pixels)).permute(1, 2, 0) + 1) * 127.5
    reference = cv2.resize(pixels, size, interpolation=cv2.INTER_LINEAR)
    assert np.abs(result.numpy() - reference).max() <= 1.001


def test_the_presets_settings() -> None:
    recipe = Reading.load("dift-sd21-davis")
    options = options_for(TASKS["propagation"], recipe, topk=3)
    assert options == PropagationOptions(temperature=0.2, topk=3, radius=15, last_frames=28, frames_of=("shooting=10",))
    assert options.of_video("shooting").last_frames == 10
    assert options.of_video("dance").last_frames == 28
    assert recipe.hash == recipe.replace(tasks={}).hash  # they change no feature
    with pytest.raises(UnknownNameError, match="propagation"):
        options_for(TASKS["propagation"], recipe.replace(tasks={"propogation": {}}))
