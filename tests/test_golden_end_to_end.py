"""From an image file through a recipe to features, against the original systems, with their noise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.extraction import Extractor, Recipe
from diffeat.trajectories import forward

TOLERANCE = 1e-5


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def give_noise(monkeypatch: pytest.MonkeyPatch, posterior: torch.Tensor, diffusion: torch.Tensor) -> None:
    """Let the draws be the stored ones."""

    def stored(shape, *, stream, draw, **_):
        noise = {"posterior": posterior, "diffusion": diffusion}[stream][draw]
        assert noise.shape == tuple(shape)
        return noise

    monkeypatch.setattr(forward, "keyed_normal", stored)


GDF = [
    pytest.param(case, latent, id=f"{root.parent.name}-{case.parent.name}-{case.name}-{latent}")
    for root in golden_roots()
    for case in sorted((root / "gdf").glob("*/e2e*"))
    for latent in ("sample", "mean")
]


@pytest.mark.parametrize(("case", "latent"), GDF)
def test_generic_diffusion_feature(case: Path, latent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = json.loads((case / "meta.json").read_text())
    inputs = load_file(case / "inputs.safetensors")
    expected = load_file(case / ("expected.safetensors" if latent == "sample" else "expected_mode.safetensors"))
    preset = Recipe.load(f"gdf-{case.parent.name}")
    assert preset.trajectory.timesteps == (meta["timestep_actual"],)
    assert list(preset.activations) == [f"gdf:{name}" for name in meta["ids_in_reference_order"]]
    recipe = preset.replace(
        model=str(case.parent / "pipeline"),
        **{"frame.size": meta["img_size"], "trajectory.latent": latent},
    ).replace(prompt=meta["prompt"], fuse=None)
    extractor = Extractor.from_recipe(recipe, device="cpu", dtype=torch.float32)
    for i, image in enumerate(meta["images"]):
        give_noise(monkeypatch, inputs["posterior_eps"][i : i + 1], inputs["noise"][i : i + 1])
        (feature,) = extractor.extract(case / image)
        for name in meta["ids_in_reference_order"]:
            assert error(feature[f"gdf:{name}"], expected[name][i]) <= TOLERANCE, name


DIFT = [
    pytest.param(root / "dift", case, id=f"{root.parent.name}-{case['name']}")
    for root in golden_roots()
    if (root / "dift").is_dir()
    for case in json.loads((root / "dift" / "cases.json").read_text())
]


@pytest.mark.parametrize("batch_size", [1, 3, None])
@pytest.mark.parametrize(("folder", "case"), DIFT)
def test_dift_mean_of_draws(folder: Path, case: dict, batch_size: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = load_file(folder / case["file"])
    frame = {"mode": "squash", "size": case["img_size"]} if case["img_size"] else {"mode": "keep"}
    recipe = Recipe.load("dift-sd21").replace(
        model=str(folder / "pipeline"),
        prompt=case["prompt"],
        activations=[f"dift:{i}" for i in range(4)],
        frame=frame,
        **{"trajectory.draws": case["ensemble_size"], "trajectory.timesteps": [case["t"]]},
    )
    extractor = Extractor.from_recipe(recipe, device="cpu", dtype=torch.float32, batch_size=batch_size)
    give_noise(monkeypatch, stored["vae_eps"], stored["noise"])
    (feature,) = extractor.extract(folder / "images" / case["image"])
    for i in range(4):
        assert error(feature[f"dift:{i}"], stored[f"up_ft_{i}_mean"][0]) <= TOLERANCE
