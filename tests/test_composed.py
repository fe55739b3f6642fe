"""Averaged attention against recorded tensors, the decoded clean image, maps made smaller."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from conftest import golden_roots
from diffeat.activations import read
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError
from diffeat.extraction import Extractor, Reading, Recipe
from diffeat.extraction.joined import concatenated
from diffeat.extraction.reduce import reducers_of
from diffeat.features import FeatureMap
from diffeat.geometry import FrameSpec
from tiny.pipelines import build

SIZE = 64


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (50, 70, 3), np.uint8))


def recipe(activations, **fields) -> Reading:
    frame = {"mode": "squash", "size": SIZE}
    trajectory = {"timesteps": [100], "latent": "mean"}
    return Reading.from_dict(
        {"model": "x", "frame": frame, "trajectory": trajectory, "activations": activations, **fields}
    )


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.from_pipeline(build("sd15"))


FOLDERS = [p.parent for root in golden_roots() for p in sorted((root / "gdf").glob("*/expected_attn.safetensors"))]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda p: p.parents[1].name)
def test_averaged_attention_is_the_recorded_one(folder: Path) -> None:
    backbone = Backbone.from_pretrained(str(folder / "pipeline"))
    inputs = load_file(folder / "inputs.safetensors")
    expected = load_file(folder / "expected_attn.safetensors")["attn"]
    side = inputs["sample"].shape[-1] * backbone.latent_stride
    wanted = recipe([{"attention": "up_cross"}], frame={"mode": "squash", "size": side}, prompt="a")
    (reducer,) = reducers_of(wanted, backbone)
    with torch.no_grad():
        found = read(backbone.denoiser, list(reducer.wants), **inputs)
    for b in range(len(expected)):
        joined = reducer.map({k: v[b] for k, v in found.items()}, 100.0)
        assert joined.shape == expected[b].shape
        assert (joined - expected[b]).abs().max() <= 1e-5 * expected.abs().max()


def test_averaged_attention_in_a_recipe(backbone: Backbone) -> None:
    (found,) = Extractor(recipe(["up_blocks.1", {"attention": "up_cross"}]), backbone).extract(picture(), "a cat")
    assert list(found.activations) == ["up_blocks.1", "attention:up_cross"]
    assert found["attention:up_cross"].shape == (2 * 77, 8, 8)
    # each grid's channels are probabilities over the text
    assert torch.allclose(found["attention:up_cross"][:77].sum(0), torch.ones(8, 8), atol=1e-4)


def test_averaged_self_attention_has_a_channel_per_cell(backbone: Backbone) -> None:
    (found,) = Extractor(recipe([{"attention": "up_self"}]), backbone).extract(picture())
    assert found.tensor.shape == (2 * 2 + 4 * 4, 8, 8)
    with pytest.raises(InvalidValueError, match="squash"):
        Extractor(recipe([{"attention": "up_self"}], frame={"mode": "keep", "longer": 64}), backbone)
    with pytest.raises(InvalidValueError, match="no cross-attention in the mid stage"):
        Extractor(recipe([{"attention": "mid_cross"}]), backbone)


def test_clean_image_is_what_the_prediction_implies(backbone: Backbone) -> None:
    chosen = recipe(["vae-out", "up_blocks.1"])
    (found,) = Extractor(chosen, backbone).extract(picture())
    (alone,) = Extractor(recipe(["gdf:vae-out"]), backbone).extract(picture())
    assert torch.equal(found["vae-out"], alone.tensor)
    assert found["vae-out"].shape == (3, SIZE, SIZE)
    seen = {}
    handle = backbone.denoiser.register_forward_hook(
        lambda _, args, kwargs, out: seen.update(x=kwargs["sample"], y=out[0]), with_kwargs=True
    )
    try:
        Extractor(chosen, backbone).extract(picture())
    finally:
        handle.remove()
    abar = backbone.pipeline.scheduler.alphas_cumprod[100]
    clean = (seen["x"] - (1 - abar).sqrt() * seen["y"]) / abar.sqrt()
    with torch.no_grad():
        image = backbone.pipeline.vae.decode(clean / backbone.pipeline.vae.config.scaling_factor).sample[0]
    assert torch.allclose(found["vae-out"], image, atol=1e-4)


def test_clean_image_of_packed_latents() -> None:
    """x₀ = x_t − σ v of a flow, unpacked as the stock pipeline does."""
    flux = Backbone.from_pipeline(build("flux"))
    seen = {}
    handle = flux.denoiser.register_forward_hook(
        lambda _, args, kwargs, out: seen.update(x=kwargs["hidden_states"], v=out[0]), with_kwargs=True
    )
    try:
        (found,) = Extractor(recipe(["vae-out"]), flux).extract(picture())
    finally:
        handle.remove()
    vae = flux.pipeline.vae
    clean = flux.pipeline._unpack_latents(seen["x"] - 0.1 * seen["v"], SIZE, SIZE, flux.latent_stride)
    with torch.no_grad():
        image = vae.decode(clean / vae.config.scaling_factor + vae.config.shift_factor).sample[0]
    assert torch.allclose(found.tensor, image, atol=1e-4)


def test_shrink_averages_areas(backbone: Backbone) -> None:
    (plain,) = Extractor(recipe(["up_blocks.1", "up_blocks.2"]), backbone).extract(picture())
    (small,) = Extractor(recipe(["up_blocks.1", "up_blocks.2"], shrink=2), backbone).extract(picture())
    for name, values in plain.activations.items():
        assert torch.allclose(small[name], F.avg_pool2d(values, 2), atol=1e-6)
    before = recipe(["up_blocks.1"])
    assert "shrink" not in before.content()
    assert before.hash != before.replace(shrink=2).hash
    assert Recipe.from_yaml(before.replace(shrink=2).to_yaml()) == before.replace(shrink=2)


def test_composed_recipes_survive_yaml() -> None:
    one = recipe(
        ["up_blocks.1", {"attention": "up_cross"}, {"id": "up_blocks.1.attentions.0.transformer_blocks.0.attn2.map"}]
    )
    assert Recipe.from_yaml(one.to_yaml()) == one
    assert json.loads(json.dumps(one.content()))["activations"][1] == {"attention": "up_cross"}


def test_joined_maps_are_where_the_first_is() -> None:
    """A device without values stands for an accelerator: nothing may bring maps to the CPU."""
    frame = FrameSpec("squash", size=64).frame((64, 64))
    features = [FeatureMap({"a": torch.empty(n, 4, 4, device="meta")}, frame, "picture") for n in (2, 3)]
    joined = concatenated(features)
    assert (joined.device.type, tuple(joined.shape)) == ("meta", (5, 4, 4))
