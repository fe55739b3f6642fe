"""Laplacian scores with their controls, amalgamation networks and aggregated attention against the recorded ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.activations import MapRequest, read
from diffeat.extraction.joins.amalgamation import (
    Amalgamation,
    AmalgamationConfig,
    concentration,
    disagreement,
    regularised,
)
from diffeat.extraction.reduce import aggregate_attention
from diffeat.studies.content_shift.laplacian import laplacian_diff, paper_laplacian
from diffeat.training.hyperfeatures.loss import keypoint_loss
from test_golden_gdf import TOLERANCE, error

ROOTS = [root / "gate" for root in golden_roots() if (root / "gate").is_dir()]


def _folders(name: str) -> list:
    return [
        pytest.param(p, id=f"{r.parents[0].name}-{p.name}") for r in ROOTS for p in sorted((r / name).glob("case*"))
    ]


@pytest.mark.parametrize("folder", [r / "laplacian_score" for r in ROOTS if (r / "laplacian_score").is_dir()])
def test_laplacian_scores(folder: Path) -> None:
    stored = load_file(folder / "inputs.safetensors")
    for case in json.loads((folder / "meta.json").read_text())["cases"]:
        name = f"case{case['case']}"
        if f"{name}.ref" not in stored:
            continue
        reference, anchor = stored[f"{name}.ref"], stored[f"{name}.anchor"]
        for border, expected in case["expected"].items():
            for control, value in expected.items():
                if control == "diff_anchor":
                    assert laplacian_diff(anchor, reference, border) == pytest.approx(value, rel=TOLERANCE)
                    continue
                feature = stored[f"{name}.feat.{control}"]
                absolute = 1e-5 * expected["diff_anchor"]  # differences of nothing are rounding alone
                assert laplacian_diff(feature, reference, border) == pytest.approx(value["diff"], TOLERANCE, absolute)
                score = paper_laplacian(feature, reference, anchor, border)
                assert score == pytest.approx(value["score"], rel=TOLERANCE, abs=1e-5), (border, control)


@pytest.mark.parametrize("folder", _folders("amalgamation"))
def test_amalgamation(folder: Path) -> None:
    meta = json.loads((folder.parent / "meta.json").read_text())
    case = next(c for c in meta["cases"] if c["folder"] == folder.name)
    state, inputs = load_file(folder / "weights.safetensors"), load_file(folder / "inputs.safetensors")
    expected = load_file(folder / "expected.safetensors")
    views, attention = inputs["views"], inputs["attention"]
    for mode in ("eval", "batchstats"):
        for output in ("nn", "conv"):
            config = AmalgamationConfig(
                case["dim"], case["views"], assigners=case["n"], attention=case["attn"], convolve=output == "conv",
                dropout=0.0, released=True,
            )  # fmt: skip
            network = Amalgamation(config)
            network.load_state_dict({k: v for k, v in state.items() if output == "conv" or not k.startswith("out.")})
            network.train(mode == "batchstats")
            with torch.no_grad():
                found, weights = network(views, attention)
            assert error(weights, expected[f"{mode}.weights"]) <= TOLERANCE
            assert error(found, expected[f"{mode}.{output}.out"]) <= TOLERANCE
            sparsity = -weights.norm(dim=2).mean()
            assert float(sparsity) == pytest.approx(case["scalars"][f"{mode}.{output}.sparsity"], rel=TOLERANCE)
            assert float(-concentration(weights).mean()) == pytest.approx(float(sparsity), rel=TOLERANCE)
            if (mode, output) == ("eval", "conv") and "clip_loss" in case["scalars"]:
                loss = case["scalars"]["clip_loss"]
                cells = (torch.tensor(loss[f"{side}_points"]).long() for side in ("source", "target"))
                numbers = [row * found.shape[-1] + column for row, column in (c.unbind(1) for c in cells)]
                assert float(keypoint_loss(found[0], found[1], *numbers)) == pytest.approx(loss["value"], rel=TOLERANCE)


@pytest.mark.parametrize("folder", _folders("attn_maps"))
def test_attention_features(folder: Path) -> None:
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(folder.parents[1] / "pipeline", subfolder="unet").eval()
    inputs, expected = load_file(folder / "inputs.safetensors"), load_file(folder / "expected.safetensors")
    ids = [f"up_blocks.{b}.attentions.{i}.transformer_blocks.0.attn2.map" for b in (1, 2) for i in range(3)]
    tokens = inputs["prompt_embeds"].shape[1]
    requests = [MapRequest(i, heads="mean", tokens=list(range(tokens))) for i in ids]
    batch = len(inputs["sample"])
    with torch.no_grad():
        found = read(
            unet, requests, sample=inputs["sample"], timestep=inputs["timestep"],
            encoder_hidden_states=inputs["prompt_embeds"].expand(batch, -1, -1),
        )  # fmt: skip
    grid = tuple(inputs["sample"].shape[-2:])
    maps = [aggregate_attention([m[i] for m in found.values()], grid) for i in range(batch)]
    assert error(torch.stack(maps), expected["attn"]) <= TOLERANCE
    assert torch.allclose(maps[0].unflatten(0, (2, tokens)).sum(1), torch.ones(()), atol=1e-5)


def test_equation_five_by_hand() -> None:
    """Two assigners, one picture, three views, one channel."""
    one, two = [0.7, 0.2, 0.1], [0.1, 0.1, 0.8]
    weights = torch.tensor([one, two])[:, None, :, None]
    length = sum(sum(x * x for x in w) ** 0.5 for w in (one, two))
    apart = sum((a - b) ** 2 for a, b in zip(one, two, strict=True)) ** 0.5
    loss = torch.tensor(5.0)
    assert float(disagreement(weights)) == pytest.approx(2 * apart)
    assert float(regularised(loss, weights, 0.3, 0.2)) == pytest.approx(5 - 0.3 * length - 0.1 * 2 * apart)
    assert float(regularised(loss, weights, 0.3, 9.0, released=True)) == pytest.approx(5 - 0.3 * 5)
    weights.requires_grad_()
    regularised(loss, weights, 0.3, 9.0, released=True).backward()
    assert torch.allclose(weights.grad, -0.3 * 5 * F.normalize(weights.detach(), dim=2) / length)
