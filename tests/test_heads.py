"""Single attention heads as activations."""

from __future__ import annotations

import pytest
import torch

from diffeat.activations import read
from diffeat.backbones import Backbone
from diffeat.errors import UnknownNameError
from tiny.pipelines import build


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("pixart_sigma", "transformer_blocks.0.attn1"),
        ("flux2_klein", "single_transformer_blocks.0.attn"),
        ("lumina2", "layers.0.attn"),
    ],
)
def test_heads_side_by_side_are_the_whole(family: str, attention: str) -> None:
    backbone = Backbone.from_pipeline(build(family))
    conditioning = backbone.condition(["a cat"], (64, 64))
    noisy = backbone.encode_images(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1).mean
    inputs = backbone.denoiser_inputs(noisy, torch.tensor([500.0]), conditioning)
    for site in "qkv":
        with torch.no_grad(), backbone.ready():
            whole = read(backbone, f"{attention}.{site}", **inputs)[f"{attention}.{site}"]
            first = read(backbone, f"{attention}.{site}[0]", **inputs)[f"{attention}.{site}[0]"]
            count = whole.shape[1] // first.shape[1]
            names = [f"{attention}.{site}[{head}]" for head in range(count)]
            heads = read(backbone, names, **inputs)
        assert torch.equal(torch.cat([heads[name] for name in names], 1), whole)
        with pytest.raises(UnknownNameError, match=f"heads 0 to {count - 1}"):
            read(backbone, f"{attention}.{site}[{count}]", **inputs)
