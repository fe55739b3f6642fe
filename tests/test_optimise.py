"""Ways to run a model faster give the same features but for the last bits, or say why they cannot."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from diffeat.backbones import Backbone, optimise
from diffeat.errors import DiffeatError, InvalidValueError, ModelError
from diffeat.extraction import Extractor
from support.techniques import picture, recipe
from tiny.pipelines import build

PICTURES: list[Image.Image] = [picture(0), picture(1)]


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] if way == "compile" else []) for way in optimise.WAYS]
)
def test_features_stay(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimise, "_BACKEND", "eager")
    backbone = Backbone.from_pipeline(build("sd15"))
    source = Extractor(recipe(activations=["up_blocks.1"]), backbone)
    inside = Extractor(recipe(activations=["up_blocks.1.attentions.0.transformer_blocks.0.attn1.q"]), backbone)
    before, inside_before, fingerprint = source.extract(PICTURES), inside.extract(PICTURES), backbone.fingerprint
    optimise.optimise(backbone, [way])
    assert backbone.fingerprint == fingerprint
    for one, other in ((source, before), (inside, inside_before)):
        for result, expected in zip(one.extract(PICTURES), other, strict=True):
            torch.testing.assert_close(result.tensor, expected.tensor, rtol=1e-4, atol=1e-5)
    if way == "compile":
        assert any(module._compiled_call_impl is not None for module in backbone.denoiser.modules())
    else:
        weight = backbone.denoiser.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)


def test_what_does_nothing_or_cannot_be_done_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(backbone: Backbone, way: str, kind: type[DiffeatError], match: str) -> None:
        with pytest.raises(kind, match=match):
            optimise.optimise(backbone, [way])

    unet, dit = Backbone.from_pipeline(build("sd15")), Backbone.from_pipeline(build("flux"))
    refused(dit, "channels-last", InvalidValueError, "has no convolutions")
    refused(unet, "channels", InvalidValueError, "channels-last")
    monkeypatch.setattr(optimise, "_BACKEND", "nonsense")
    refused(unet, "compile", ModelError, "does not work on this machine")
    monkeypatch.setattr(type(unet.denoiser), "_repeated_blocks", [])
    refused(unet, "compile", InvalidValueError, "no blocks that repeat")
