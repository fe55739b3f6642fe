"""Many recipes at once give what each gives alone, with fewer calls."""

# ruff: noqa: F811 (arguments are named like the fixtures that are imported)
from __future__ import annotations

from typing import Any

import pytest
import torch

from diffeat import Extractor
from diffeat.errors import InvalidValueError
from diffeat.extraction import Views
from diffeat.extraction.wanted import MapActivation
from diffeat.techniques import ControlNet, DenoiseFrom, Guidance, LoRA, Prompt
from support.techniques import backbone, files, picture, recipe  # noqa: F401 (fixtures)

MAP = "up_blocks.2.attentions.0.transformer_blocks.0.attn2.map"


def views_of(files: Any) -> list[Any]:
    control = ControlNet(model=str(files / "control"), condition="soft-edges")
    lora = LoRA(path=str(files / "lora.safetensors"))
    return [
        recipe(),
        recipe(seed=3),
        recipe(Prompt(text="a dog"), fuse={"kind": "concat"}),
        recipe(control, prompt="a bird"),
        recipe(control, LoRA(path=str(files / "lora.safetensors"), scale=0.5), Prompt(text="a dog")),
        recipe(lora, **{"trajectory.timesteps": [300, 100], "trajectory.latent": "mean"}),
        recipe(control, DenoiseFrom(start=300, steps=2), Guidance(scale=2), activations=["mid_block"]),
        recipe(activations=["up_blocks.0", MapActivation(id=MAP, heads="mean")]),
        recipe(**{"trajectory.kind": "clean", "trajectory.draws": 1}),
    ]


def test_each_view_is_what_its_recipe_gives_alone(backbone: Any, files: Any) -> None:
    pictures, recipes = [picture(i) for i in range(3)], views_of(files)
    together = Views(recipes, backbone, batch_size=7).extract(pictures)
    assert len(together) == 3
    assert all(len(found) == len(recipes) for found in together)
    for v, one in enumerate(recipes):
        for alone, found in zip(Extractor(one, backbone).extract(pictures), [t[v] for t in together], strict=True):
            assert alone.provenance == found.provenance
            assert list(alone.activations) == list(found.activations)
            for name, expected in alone.activations.items():
                assert torch.allclose(found[name], expected, rtol=1e-4, atol=1e-5), (v, name)


def test_calls_are_shared(backbone: Any, files: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted at the modules themselves: rows of the UNet, of the autoencoder and of the text encoder."""
    counted = {"unet": 0, "vae": 0}
    unet = backbone.denoiser.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        counted["unet"] += len(kwargs["sample"])
        return unet(*args, **kwargs)

    encode = backbone.pipeline.vae.encode
    monkeypatch.setattr(backbone.denoiser, "forward", forward)
    monkeypatch.setattr(
        backbone.pipeline.vae, "encode", lambda x: (counted.__setitem__("vae", counted["vae"] + len(x)), encode(x))[1]
    )
    lora = LoRA(path=str(files / "lora.safetensors"))
    same = [
        recipe(),
        recipe(activations=["mid_block"]),
        recipe(Prompt(text="a cat")),
        recipe(lora),
        recipe(lora, seed=1),
    ]
    plan = Views(same, backbone)
    plan.extract([picture(0)])
    assert counted == {
        "unet": 8,
        "vae": 1,
    }  # the second view rides on the first one's rows; the others have own text, weights or noise
    cost = plan.plan.cost()
    assert (cost.rows, cost.encodings, cost.switches, cost.apart) == (8, 1, 1, 10)


def test_what_cannot_be_run_together(backbone: Any) -> None:
    with pytest.raises(InvalidValueError, match="share their frame"):
        Views([recipe(), recipe(frame={"mode": "squash", "size": 128})], backbone)
    with pytest.raises(InvalidValueError, match="another word in every picture"):
        Views([recipe(Prompt(captioner=str), activations=[MapActivation(id=MAP)])], backbone)
    with pytest.raises(InvalidValueError, match="no views"):
        Views([], backbone)
