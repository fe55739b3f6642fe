"""Trajectories, raw features, head, loss, gradients and optimiser steps, against the original system's numbers."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from conftest import golden_roots
from diffeat.activations import Taps
from diffeat.backbones import Backbone
from diffeat.extraction import Extractor, Recipe
from diffeat.extraction.joins.aggregation import AggregationConfig, AggregationNetwork
from diffeat.extraction.joins.aggregation_files import read_published
from diffeat.training.hyperfeatures.loss import keypoint_loss, nearest_cells
from diffeat.trajectories import Guidance, forward, ode_steps, unconditional_rows, walk

TOLERANCE = 1e-5
LAYERS = [f"dhf:{n}" for n in range(1, 13)]
ROOTS = [root / "hyperfeatures" for root in golden_roots() if (root / "hyperfeatures").is_dir()]
WHOLE = [root for root in ROOTS if (root / "cases.json").is_file()]  # beside the repository only: several MB
CASES = [
    pytest.param(root, case, id=case["name"])
    for root in WHOLE
    for case in json.loads((root / "cases.json").read_text())
]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@cache
def backbone(root: Path) -> Backbone:
    return Backbone.from_pretrained(str(root / "pipeline"))


@pytest.mark.parametrize("root", ROOTS, ids=lambda r: r.parent.parent.name)
def test_timesteps_of_every_save_index(root: Path) -> None:
    for count, expected in json.loads((root / "timesteps.json").read_text()).items():
        if not count.isdigit():
            continue
        for direction in ("inversion", "generation"):
            steps = ode_steps(direction, int(count), backbone(root))
            assert {str(step.save): step.at for step in steps} == expected[direction]


def start(root: Path, case: dict[str, Any], stored: dict[str, Tensor]) -> Tensor:
    if "images" not in stored:
        return stored["latents"]
    pixels = F.interpolate(stored["images"], size=(case["vae_size"],) * 2, mode="bilinear")
    latents = backbone(root).encode_images(pixels).sample(stored["vae_eps"])
    assert error(latents, stored["latents"]) <= TOLERANCE
    return latents


@pytest.mark.parametrize("finish", [True, False], ids=["to the end", "stopped early"])
@pytest.mark.parametrize(("root", "case"), CASES)
def test_trajectory_and_raw_features(root: Path, case: dict[str, Any], finish: bool) -> None:
    stored = load_file(root / case["file"])
    model = backbone(root)
    latents = start(root, case, stored)
    side = latents.shape[-1] * model.latent_stride
    conditions = model.condition([case["prompt"]] * len(latents), size=(side, side))
    guidance = None
    if case["guidance_scale"] > 0:
        guidance = Guidance(case["guidance_scale"], unconditional_rows(model, case["negative_prompt"], conditions))
    found: dict[int, dict[str, Tensor]] = {}
    with torch.no_grad():
        way = walk(
            model,
            latents,
            ode_steps(case["mode"], case["num_timesteps"], model),
            conditions,
            guidance=guidance,
            taps=Taps(model.denoiser, LAYERS),
            save=case["save_timestep"],
            on_features=found.__setitem__,
            finish=finish,
            keep=True,
        )
    if finish:
        assert error(torch.stack(way.latents), stored["xs"]) <= TOLERANCE
        assert error(torch.stack(way.clean), stored["x0_preds"]) <= TOLERANCE
    resized = [
        torch.cat(
            [F.interpolate(found[s][n], size=(case["output_resolution"],) * 2, mode="bilinear") for n in LAYERS], 1
        )
        for s in case["save_timestep"]
    ]
    assert error(torch.stack(resized, 1), stored["feats"]) <= TOLERANCE


@pytest.mark.parametrize("root", WHOLE, ids=lambda r: r.parent.parent.name)
def test_head_on_inversion_and_on_flipped_generation(root: Path) -> None:
    network = read_published(root / "head" / "aggregation_network.pt")
    expected = load_file(root / "head" / "expected_hyperfeatures.safetensors")
    assert network.config.steps == (9, 7, 4, 2, 0)
    assert network.config.count == 10
    with torch.no_grad():
        for case, key, flip in (
            ("inversion", "hyperfeats", False),
            ("generation", "hyperfeats_generation_flipped", True),
        ):
            feats = load_file(root / "cases" / f"{case}.safetensors")["feats"]
            maps = (feats.flip(1) if flip else feats).split(list(network.config.channels), 2)
            assert error(network(maps), expected[key]) <= TOLERANCE
            streamed = sum(network([m[:, k : k + 1] for m in maps], steps=[k]) for k in range(5))
            assert error(streamed, expected[key]) <= TOLERANCE


@pytest.mark.parametrize("root", WHOLE, ids=lambda r: r.parent.parent.name)
def test_a_layer_that_has_the_descriptors_channels_needs_no_shortcut(root: Path) -> None:
    file = root / "head" / "identity_shortcut.safetensors"
    stored = load_file(file)
    with safe_open(file, "pt") as handle:
        meta = {k: json.loads(v) for k, v in handle.metadata().items()}
    channels = tuple(meta["feature_dims"])
    network = AggregationNetwork(
        AggregationConfig(("a", "b"), channels, tuple(meta["save_timestep"]), 4, "", meta["projection_dim"])
    )
    network.load_state_dict({k.removeprefix("state."): v for k, v in stored.items() if k.startswith("state.")})
    maps = stored["input"].unflatten(1, (len(meta["save_timestep"]), sum(channels))).split(channels, 2)
    with torch.no_grad():
        assert error(network(maps), stored["output"]) <= TOLERANCE


@pytest.mark.parametrize("root", WHOLE, ids=lambda r: r.parent.parent.name)
def test_loss_gradients_and_three_steps_of_the_optimiser(root: Path) -> None:
    network = read_published(root / "head" / "aggregation_network.pt").train()
    meta = json.loads((root / "head" / "train.json").read_text())
    stored = load_file(root / "head" / "train.safetensors")
    feats = load_file(root / "cases" / f"{meta['feats_case']}.safetensors")["feats"][meta["feats_rows"]]
    maps = feats.split(list(network.config.channels), 2)
    grid = (meta["output_resolution"],) * 2
    optimiser = torch.optim.AdamW(network.parameters(), lr=meta["lr"], weight_decay=meta["weight_decay"])
    for i, want in enumerate(meta["losses"]):
        cells = [nearest_cells(stored[f"{side}_points_{i}"].flip(1), grid) for side in ("source", "target")]
        assert torch.equal(cells[0], stored[f"source_idx_{i}"])
        assert torch.equal(cells[1], stored[f"target_idx_{i}"])
        described = network(maps)
        loss = keypoint_loss(described[0], described[1], cells[0], cells[1])
        assert abs(loss.item() - want) <= TOLERANCE * want
        optimiser.zero_grad()
        loss.backward()
        if i == 0:
            grads = {name: p.grad for name, p in network.named_parameters()}
            for name in ("mixing_weights", meta["picked_conv"]):
                assert error(grads[name], stored[f"grad_{name}"]) <= TOLERANCE
        optimiser.step()
        assert error(network.mixing_weights.detach(), stored[f"mixing_weights_after_{i + 1}"]) <= TOLERANCE
    state = network.state_dict()
    for name, (_, total) in meta["state_after_3_sum_and_abssum"].items():
        assert state[name].double().abs().sum().item() == pytest.approx(total, rel=TOLERANCE)
    for key in (k for k in stored if k.startswith("after_3.")):
        off = (state[key.removeprefix("after_3.")] - stored[key]).abs()
        assert (off <= 0.05 * meta["lr"]).float().mean() >= 0.999
        assert off.mean() <= 1e-3 * meta["lr"]


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("root", WHOLE, ids=lambda r: r.parent.parent.name)
def test_a_recipe_with_the_published_checkpoint(root: Path, batch_size: int, monkeypatch, tmp_path: Path) -> None:
    """From picture files through the recipe: the two-fold resizing of the original is done beforehand."""
    case = json.loads((root / "cases.json").read_text())[0]
    stored = load_file(root / case["file"])
    expected = load_file(root / "head" / "expected_hyperfeatures.safetensors")["hyperfeats"]
    draws = iter(stored["vae_eps"])
    monkeypatch.setattr(forward, "keyed_normal", lambda shape, **_: next(draws))
    recipe = Recipe.load("hyperfeatures-sd15").replace(
        model=str(root / "pipeline"),
        **{
            "frame.size": case["vae_size"],
            "trajectory.steps": case["num_timesteps"],
            "trajectory.save": case["save_timestep"],
            "fuse.grid": [case["output_resolution"]] * 2,
            "fuse.weights": {"source": str(root / "head" / "aggregation_network.pt")},
        },
    )
    extractor = Extractor.from_recipe(recipe, device="cpu", dtype=torch.float32, batch_size=batch_size)
    pixels = F.interpolate(stored["images"], size=(case["vae_size"],) * 2, mode="bilinear")
    images = [Image.new("RGB", (case["vae_size"],) * 2, (i, 0, 0)) for i in range(len(pixels))]
    numbered = lambda _, levels: torch.stack([pixels[int(values[0, 0, 0])] for values in levels])  # noqa: E731
    monkeypatch.setattr("diffeat.geometry.Frame.normalised", numbered)
    found = extractor.extract(images)
    assert error(torch.stack([f.tensor for f in found]), expected) <= TOLERANCE
