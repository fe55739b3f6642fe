"""Correspondence of Generic Diffusion Feature against its own code: random maps joined, matched and scored."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from conftest import golden_roots
from diffeat.datasets.spair import read_pair_list
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec, open_image
from diffeat.refinement import concatenate
from diffeat.tasks.correspondence import get_protocol, match, pck, record_pair

FOLDERS = [root / "gdf_correspondence" for root in golden_roots() if (root / "gdf_correspondence").is_dir()]
pytestmark = pytest.mark.skipif(not FOLDERS, reason="needs the reference data beside the repository")
GRID = (128, 128)


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    folder = FOLDERS[-1]
    cases = json.loads((folder / "expected.json").read_text())["cases"]
    return cases, load_file(folder / "features.safetensors"), load_file(folder / "joined.safetensors")


@pytest.mark.parametrize("case", ["a", "b"])
def test_joined_maps_predictions_and_scores(case: str, golden: Any) -> None:
    cases, maps, joined = golden
    expected = cases[case]
    names = [f"{case}.{i}.{m['name']}" for i, maps in enumerate(expected["extractors"]) for m in maps]

    def tensor(picture: str) -> Tensor:
        parts = [maps[f"{name}.{picture}"].float() for name in names]
        result = concatenate(parts, GRID, resize="bilinear")
        positions = joined[f"{case}.joined_sample_cyx"].long()
        sample = result[positions[:, 0], positions[:, 1], positions[:, 2]]
        assert (sample - joined[f"{case}.joined_sample.{picture}"]).abs().max() <= 1e-5
        return result

    spair = FOLDERS[-1].parent / "pck"
    pairs = read_pair_list(spair / "annotations" / "test.json", images=spair / "SPair-71k" / "JPEGImages")
    protocols = {kind: get_protocol(name) for kind, name in (("img", "gdf"), ("bbox", "gdf-bbox"))}
    features: dict[str, FeatureMap] = {}
    records = []
    for pair, told in zip(pairs, expected["pairs"], strict=True):
        for name, path in ((told["source_path"], pair.source), (told["target_path"], pair.target)):
            if name not in features:
                frame = FrameSpec("squash", size=512).frame(open_image(path).size)
                features[name] = FeatureMap({"fused": tensor(name)}, frame, name)
        source, target = features[told["source_path"]], features[told["target_path"]]
        assert target.frame.original == tuple(told["target_size_wh"])
        found = match(source, target, pair.source_points, matching=protocols["img"].matching)
        scale = torch.tensor(target.frame.original) / 512
        for point, lattice, tied in zip(found.target / scale, told["pred_lattice_yx"], told["tied_yx"], strict=True):
            assert [round(v, 6) for v in reversed(point.tolist())] in [lattice, *tied]
        records.append(
            record_pair(
                found.target, pair.target_points, target_size=target.frame.original, target_box=pair.target_box,
                images=(told["source_path"], told["target_path"]),
            )
        )  # fmt: skip
    assert sum(len(r.distances) for r in records) == expected["points"]
    for kind, protocol in protocols.items():
        low, high = expected[f"pck_{kind}_range_over_ties"]
        assert low - 1e-9 <= pck(records, protocol, replicates=0).value / 100 <= high + 1e-9
