"""DIFT's HPatches evaluation on stored key points: matches, homographies, corner errors and accuracies."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.features import FeatureMap
from diffeat.geometry import Frame
from diffeat.tasks.homography import corner_error, describe, find_homography, mutual_neighbours

pytest.importorskip("cv2")
FOLDERS = [root / "dift_hpatches" for root in golden_roots() if (root / "dift_hpatches").is_dir()]
CASES = [
    pytest.param(folder, *name.split("."), id=name)
    for folder in FOLDERS
    for name, case in json.loads((folder / "expected.json").read_text()).items()
    if isinstance(case, dict)
]


@pytest.mark.parametrize(("folder", "kind", "metric", "mode"), CASES)
def test_matches_and_accuracies(folder, kind: str, metric: str, mode: str) -> None:
    inputs, stored = (load_file(folder / f"{name}.safetensors") for name in ("inputs", "matches"))
    case = json.loads((folder / "expected.json").read_text())[f"{kind}.{metric}.{mode}"]
    errors: dict[str, list[float]] = {"i": [], "v": []}
    for pair in case["pairs"]:
        places = [f"{kind}.{pair['sequence']}.{number}" for number in (1, pair["image"])]
        points, descriptors = [], []
        for place in places:
            unique, index = np.unique(inputs[f"{place}.keypoints"].numpy(), axis=0, return_index=True)
            points.append(unique)
            descriptors.append(inputs[f"{place}.descriptors"][torch.from_numpy(index)])
        matches = mutual_neighbours(*descriptors, metric)
        ambiguous = [set(pair[f"ambiguous_rows_{side}"]) for side in "ab"]
        ours, theirs = (
            {(a, b) for a, b in m.tolist() if a not in ambiguous[0] and b not in ambiguous[1]}
            for m in (matches, stored[f"{kind}.{metric}.{pair['sequence']}.{pair['image']}.matches_unique"])
        )
        assert ours == theirs
        matrix, _ = find_homography(points[0][matches[:, 0]], points[1][matches[:, 1]], mode)
        assert matrix is not None
        size = tuple(inputs[f"{places[0]}.size_wh"].tolist())
        errors[pair["sequence"][0]].append(corner_error(matrix, inputs[f"{places[1]}.H"].numpy(), size))
        if kind == "exact":
            assert errors[pair["sequence"][0]][-1] == pytest.approx(pair["corner_error"], abs=2e-3)
    step = {"exact": 0, "noisy": 0.05, "chain": 0.1}[kind]
    for name, values in (("i", errors["i"]), ("v", errors["v"]), ("overall", [*errors["i"], *errors["v"]])):
        accuracy = [np.mean(np.array(values) <= t) for t in (1, 3, 5)]
        share = len(case["pairs"]) / len(values)
        np.testing.assert_allclose(accuracy, case[name], atol=step * share + 1e-9)


@pytest.mark.parametrize("folder", FOLDERS)
def test_released_sampling_of_features(folder) -> None:
    inputs = load_file(folder / "inputs.safetensors")
    places = [name.removesuffix(".map") for name in inputs if name.endswith(".map")]
    for place in places:
        frame = Frame(tuple(inputs[f"{place}.size_wh"].tolist()), (768, 768), (0, 0, 768, 768))
        features = FeatureMap({"x": inputs[f"{place}.map"].float()}, frame, "", "", {})
        result = describe(features, inputs[f"{place}.keypoints"].numpy(), "released")
        torch.testing.assert_close(result, inputs[f"{place}.descriptors"].float(), rtol=1e-4, atol=1e-4)
