"""Features of different weights under one name must never mix."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from diffeat.backbones.fingerprint import fingerprint, in_any_precision
from diffeat.errors import ModelError, StoreError
from diffeat.storage import FeatureStore


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 1))


def test_equal_weights_are_told_equal_whatever_their_memory_layout():
    one, two = network(), network().to(memory_format=torch.channels_last)
    assert fingerprint(one) == fingerprint(two)


def test_other_weights_precision_or_names_are_told_apart():
    trained = network()
    with torch.no_grad():
        for weight in trained.parameters():
            weight.add_(1e-4 * torch.randn_like(weight))
    others = [network(1), trained, network().half(), nn.Sequential(network()), nn.Sequential()]
    assert len({fingerprint(m) for m in [network(), *others]}) == 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_one_bit_of_one_weight_and_an_exchange_of_two_are_noticed(dtype: torch.dtype):
    """Whatever the precision, at any place."""
    big = nn.Linear(300, 200).to(dtype)
    before = fingerprint(big)
    for place in (0, 17, 59_999):
        changed = copy.deepcopy(big)
        with torch.no_grad():
            bits = changed.weight.view(-1).view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
            bits[place] ^= 1
        assert fingerprint(changed) != before
    swapped = copy.deepcopy(big)
    with torch.no_grad():
        swapped.weight[[3, 4]] = big.weight[[4, 3]]
    assert fingerprint(swapped) != before


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("unet", {"flip_sin_to_cos": False}),
        ("vae", {"scaling_factor": 0.5}),
        ("scheduler", {"beta_end": 0.02}),
        ("text_encoder", {"hidden_act": "relu"}),
    ],
)
def test_configurations_count(part: str, change: dict):
    from diffeat.backbones import Backbone
    from tiny.pipelines import build

    one, two = build("sd15"), build("sd15")
    config = getattr(two, part).config
    for name, value in change.items():
        if part == "text_encoder":
            setattr(config, name, value)
        else:
            getattr(two, part).register_to_config(**{**config, name: value})
    same = Backbone.from_pipeline(build("sd15")).fingerprint
    assert Backbone.from_pipeline(one).fingerprint == same != Backbone.from_pipeline(two).fingerprint


def test_missing_parts_do_not_count_and_weights_without_content_are_refused():
    assert fingerprint(network(), None) == fingerprint(network())
    with pytest.raises(ModelError, match="0.bias is on the meta device"):
        fingerprint(network().to("meta"))


class _Packed(nn.Parameter):
    """As diffusers' weights of GGUF: bytes of a denser form, whose operations give tensors of that form again."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        if not isinstance(result, torch.Tensor):
            return result
        if not result.ndim:
            raise IndexError("tuple index out of range")
        return torch.Tensor._make_subclass(cls, result)


def test_packed_weights_count_by_their_bytes() -> None:
    def packed(last: int) -> nn.Module:
        module = nn.Module()
        module.weight = _Packed(torch.tensor([[1, 2, 3, last]], dtype=torch.uint8), requires_grad=False)
        return module

    assert fingerprint(packed(4)) == fingerprint(packed(4))
    assert fingerprint(packed(4)) != fingerprint(packed(5))


def test_a_store_refuses_other_weights_and_accepts_unknown_ones(tmp_path: Path):
    def reopen(weights: str) -> None:
        FeatureStore.open_or_create(tmp_path / "store", {"a": 1}, "h", weights=weights).close()

    FeatureStore.create(tmp_path / "store", {"a": 1}, "h", weights="aaaa").close()
    reopen("aaaa")
    reopen("")
    with pytest.raises(StoreError, match="weights.*aaaa there, bbbb here"):
        reopen("bbbb")


def test_the_extractor_tells_the_weights_of_its_model(tmp_path: Path):
    from diffeat import Extractor
    from diffeat.backbones import Backbone
    from diffeat.extraction import Recipe
    from tiny.pipelines import build

    pipeline = build("sd15")
    recipe = Recipe.from_dict({"model": "x", "trajectory": {"timesteps": [10]}, "activations": ["mid_block"]})
    before = Extractor(recipe, Backbone.from_pipeline(pipeline)).fingerprint
    assert Extractor(recipe, Backbone.from_pipeline(pipeline)).fingerprint == before
    with torch.no_grad():
        next(pipeline.vae.parameters()).mul_(1.01)
    assert Extractor(recipe, Backbone.from_pipeline(pipeline)).fingerprint != before


def test_a_fingerprint_for_every_precision_tells_models_apart() -> None:
    """By signs, which no rounding changes: also of numbers that a half-precision float cannot hold."""
    weights = torch.tensor([[1e-9, -1e-9, 3.0], [-70.1, 1e-40, -0.0]])
    prints: dict[str, set[str]] = {"one": set(), "other": set()}
    for kind, flip in (("one", 1.0), ("other", -1.0)):
        for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
            net = nn.Linear(3, 2, bias=False).to(dtype)
            net.weight.data = (weights * torch.tensor([[1.0, flip, 1.0]])).to(dtype)
            with in_any_precision():
                prints[kind].add(fingerprint(net))
            assert fingerprint(net) not in prints[kind]
    assert [len(found) for found in prints.values()] == [1, 1]
    assert not prints["one"] & prints["other"]
