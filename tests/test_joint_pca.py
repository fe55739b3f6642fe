"""Joint PCA of pairs, and fusion with a vision transformer as in the published "†" rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from transformers import Dinov2Config, Dinov2Model

from diffeat.backbones import Backbone
from diffeat.datasets.registry import open_dataset
from diffeat.datasets.toyworld_spair import write_toyworld_pairs
from diffeat.errors import InvalidValueError
from diffeat.extraction import Extractor, Joined, JoinedSource, Reading, Vision, VisionExtractor, join_recipes
from diffeat.tasks.correspondence.evaluate import evaluate
from diffeat.tasks.correspondence.joint_pca import joint_pca
from diffeat.tasks.correspondence.protocol import get_protocol
from tiny.pipelines import build


def _cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    return F.normalize(one.flatten(1), dim=0).T @ F.normalize(other.flatten(1), dim=0)


def _maps(channels: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(channels, channels, generator=generator)
    return tuple(
        torch.einsum("dc,chw->dhw", mix, torch.randn(channels, *g, generator=generator)) + 3 for g in ((5, 6), (7, 4))
    )  # type: ignore


@pytest.mark.parametrize("dimensions", [3, 9])
def test_equals_the_projection_on_the_first_components_of_all_tokens(dimensions: int) -> None:
    one, other = _maps()
    tokens = torch.cat([one.flatten(1).T, other.flatten(1).T])
    mean = tokens.mean(0)
    basis = torch.linalg.svd(tokens - mean, full_matrices=False).Vh[:dimensions]
    expected = [((m.flatten(1).T - mean) @ basis.T).T.unflatten(1, m.shape[1:]) for m in (one, other)]
    got = joint_pca(one, other, dimensions)
    assert got[0].shape == (dimensions, 5, 6)
    torch.testing.assert_close(_cosines(*got), _cosines(*expected), rtol=1e-4, atol=1e-4)


def test_more_channels_than_tokens_give_the_same_cosines() -> None:
    one, other = (m[:, :2, :2] for m in _maps())  # 8 tokens of 12 channels
    tokens = torch.cat([one.flatten(1).T, other.flatten(1).T])
    basis = torch.linalg.svd(tokens - tokens.mean(0), full_matrices=False).Vh[:4]
    expected = [((m.flatten(1).T - tokens.mean(0)) @ basis.T).T for m in (one, other)]
    torch.testing.assert_close(_cosines(*joint_pca(one, other, 4)), _cosines(*expected), rtol=1e-3, atol=1e-3)


def test_all_dimensions_are_centring_and_a_constant_channel_no_longer_counts() -> None:
    one, other = _maps()
    massive = [torch.cat([m, torch.full((1, *m.shape[1:]), 1e3)]) for m in (one, other)]
    expected = _cosines(*joint_pca(one, other, 1280))
    torch.testing.assert_close(_cosines(*joint_pca(massive[0], massive[1], 1280)), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(InvalidValueError, match="equal channels"):
        joint_pca(one, massive[1])
    with pytest.raises(InvalidValueError, match="at least one"):
        joint_pca(one, other, 0)


def test_a_transformer_and_dino_fused_and_projected_are_scored(tmp_path) -> None:
    root = write_toyworld_pairs(tmp_path / "world", size=64, classes=["horse"], images={"val": 2}, pairs=2)
    pairs = open_dataset("toyworld", root, "val")
    flux = Backbone.from_pipeline(build("flux"))
    recipe = Reading.from_dict(
        {
            "model": "tiny",
            "frame": {"mode": "squash", "size": 96},
            "trajectory": {"timesteps": [260]},
            "activations": ["ditf:3"],
            "refine": {"discard": "pre"},
        }
    )
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14)
    dino = VisionExtractor(Vision(model="tiny-dinov2", size=56), Dinov2Model(config))
    joined = join_recipes([recipe, dino.recipe])
    assert isinstance(joined, Joined)
    fusion = JoinedSource(joined, [Extractor(recipe, flux), dino])
    found = evaluate(pairs, fusion, get_protocol("spair"), joint_pca=8)
    assert any("8 joint principal components" in note for note in found.result.notes)
    plain = evaluate(pairs, fusion, get_protocol("spair"))
    assert [p.record.distances for p in plain.predictions] != [p.record.distances for p in found.predictions]
    with pytest.raises(InvalidValueError, match="cannot be combined"):
        evaluate(pairs, fusion, get_protocol("spair"), joint_pca=8, flip=True)
