"""CleanDIFT: presets, the denoiser inside a whole checkpoint, and its adapters."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from diffeat.backbones import Backbone
from diffeat.backbones.weights import load_denoiser_weights
from diffeat.errors import ModelError, UnknownNameError
from diffeat.extraction import Recipe
from diffeat.refinement import CleanDiftAdapters
from tiny.pipelines import build


def adapters(width: int = 8, channels: int = 6) -> dict[str, Tensor]:
    """Weights of one adapter of two blocks, and of a mapping of one."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.4 * torch.randn(*shape, generator=generator)

    state = {
        "timestep": torch.tensor(258.5),
        "time_emb.weight": draw(width // 2, 1),
        "time_in_proj.weight": draw(width, width),
        "mapping.in_norm.scale": 1 + draw(width),
        "mapping.out_norm.scale": 1 + draw(width),
        "mapping.blocks.0.norm.scale": 1 + draw(width),
        "mapping.blocks.0.up_proj.weight": draw(6 * width, width),
        "mapping.blocks.0.down_proj.weight": draw(width, 3 * width),
    }
    for i in range(2):
        prefix = f"adapters.us6.layers.{i}"
        state |= {
            f"{prefix}.norm.linear.weight": draw(channels, width),
            f"{prefix}.up_proj.weight": draw(2 * channels, channels),
            f"{prefix}.down_proj.weight": draw(channels, channels),
        }
    return state


def by_hand(state: dict[str, Tensor], feature: Tensor, t: float) -> Tensor:
    """With the functions of torch, position by position."""

    def block(x: Tensor, prefix: str, scale: Tensor) -> Tensor:
        value, gate = F.linear(F.rms_norm(x, x.shape[-1:], scale, 1e-6), state[f"{prefix}.up_proj.weight"]).chunk(2)
        return x + F.linear(value * F.silu(gate), state[f"{prefix}.down_proj.weight"])

    angles = [2 * math.pi * float(w) * t / 999 for w in state["time_emb.weight"]]
    waves = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    c = F.linear(waves, state["time_in_proj.weight"])
    c = block(F.rms_norm(c, c.shape, state["mapping.in_norm.scale"], 1e-6), "mapping.blocks.0",
              state["mapping.blocks.0.norm.scale"])  # fmt: skip
    c = F.rms_norm(c, c.shape, state["mapping.out_norm.scale"], 1e-6)
    out = torch.empty_like(feature)
    for y in range(feature.shape[1]):
        for x in range(feature.shape[2]):
            at = feature[:, y, x]
            for i in range(2):
                prefix = f"adapters.us6.layers.{i}"
                at = block(at, prefix, 1 + F.linear(c, state[f"{prefix}.norm.linear.weight"]))
            out[:, y, x] = at
    return out


@pytest.mark.parametrize("t", [1.0, 261.0, 999.0])
def test_adapters_map_clean_features_to_those_of_a_timestep(t: float) -> None:
    state = adapters()
    feature = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(1))
    made = CleanDiftAdapters(state)
    assert (made.names, made.timestep) == (["us6"], 258.5)
    torch.testing.assert_close(made("cleandift:us6", feature, t), by_hand(state, feature, t), rtol=1e-5, atol=1e-5)
    both = torch.stack([feature, 2 * feature])
    torch.testing.assert_close(made("us6", both, t)[0], made("us6", feature, t))
    assert not torch.allclose(made("us6", feature, t), made("us6", feature, 500.0))
    with pytest.raises(UnknownNameError, match="us6"):
        made("us7", feature, t)


def test_a_whole_checkpoint_gives_its_denoiser_and_its_adapters(tmp_path: Path) -> None:
    backbone, tuned = (Backbone.from_pipeline(build("sd15")) for _ in range(2))
    with torch.no_grad():
        for weight in tuned.denoiser.parameters():
            weight.add_(0.01)
    wanted = {name: value.clone() for name, value in tuned.denoiser.state_dict().items()}
    original = backbone.denoiser.state_dict()
    file = tmp_path / "cleandift_sd15_full.safetensors"
    inside = {f"unet_feature_extractor_cleandift.{k}": v for k, v in wanted.items()}
    base = {f"unet_feature_extractor_base.{k}": v.clone() for k, v in original.items()}
    save_file({**inside, **base, **adapters()}, file)
    load_denoiser_weights(backbone, str(file))
    assert all(torch.equal(value, wanted[name]) for name, value in backbone.denoiser.state_dict().items())
    assert CleanDiftAdapters.load(str(file)).timestep == 258.5
    plain = tmp_path / "cleandift_sd15_unet.safetensors"
    save_file(wanted, plain)
    with pytest.raises(ModelError, match=r"no CleanDIFT adapters; they lie in cleandift_sd21_full\.safetensors"):
        CleanDiftAdapters.load(str(plain))


@pytest.mark.parametrize(("name", "side"), [("cleandift-sd15", 512), ("cleandift-sd21", 768)])
def test_presets(name: str, side: int) -> None:
    recipe = Recipe.load(name)
    assert recipe.model == name.removeprefix("cleandift-")
    assert recipe.denoiser.file == f"cleandift_{recipe.model}_unet.safetensors"
    assert (recipe.frame.size, recipe.trajectory.kind, recipe.trajectory.timesteps) == ((side, side), "clean", (261,))
    assert recipe.text_for("cat") == "A photo of a cat"
