"""Checkpoints of guided-diffusion (ADM) as stock pipelines, against formulas of the published architecture."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from safetensors import safe_open
from typer.testing import CliRunner

from diffeat.activations import read
from diffeat.activations.aliases import aliases_of
from diffeat.backbones.guided_diffusion import _architecture, convert_guided_diffusion
from diffeat.cli.main import app
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction import Extractor, Reading
from oracles import adm

PER_LEVEL, HEAD = 2, 16
ATTENDS = (False, True, True)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return adm.random_state((32, 64, 96), PER_LEVEL, ATTENDS, seed=0)


@pytest.fixture(scope="module")
def folder(state, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("adm")
    torch.save(state, root / "small_uncond.pt")
    options = ["--size", "32", "--head-channels", str(HEAD)]
    done = CliRunner().invoke(app, ["convert", str(root / "small_uncond.pt"), "--out", str(root / "adm"), *options])
    assert done.exit_code == 0, done.output
    return root / "adm"


def test_the_prediction_and_every_output_block(folder: Path, state) -> None:
    pipeline = DDPMPipeline.from_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 24, 40, generator=generator)
    t = torch.tensor([41, 700])
    with torch.no_grad():
        expected, blocks = adm.forward(state, x, t, PER_LEVEL, HEAD)
        prediction = pipeline.unet(x, t).sample
        names = [f"dift:{k}" for k in range(len(blocks))]
        maps = read(pipeline.unet, names, sample=x, timestep=t)
    torch.testing.assert_close(prediction, expected, rtol=1e-4, atol=1e-4)
    for name, block in zip(names, blocks, strict=True):
        torch.testing.assert_close(maps[name], block, rtol=1e-4, atol=1e-4)
    assert pipeline.scheduler.config.variance_type == "learned_range"
    assert torch.allclose(pipeline.scheduler.betas, torch.linspace(1e-4, 0.02, 1000))


def test_names_of_the_published_model() -> None:
    """The 18 output blocks of the six levels that the released model has: attention from 1/32 to 1/8."""
    state = adm.random_state((32, 32, 64, 64, 128, 128), 2, (False, False, False, True, True, True), seed=0)
    levels, config = _architecture(state, 64)
    assert (levels, config["layers_per_block"]) == (3, 2)
    assert config["down_block_types"] == ("ResnetDownsampleBlock2D",) * 3 + ("AttnDownBlock2D",) * 3
    assert config["up_block_types"] == ("AttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",) * 3
    assert config["resnet_time_scale_shift"] == "scale_shift"
    with torch.device("meta"):
        unet = UNet2DModel(sample_size=256, **config)
    aliases = dict(aliases_of(unet, [name for name, _ in unet.named_modules()]))
    parts = ["attentions"] * 3 + ["resnets"] * 3
    expected = [
        f"up_blocks.{level}" + (f".{part}.{j}" if j < 2 else "") for level, part in enumerate(parts) for j in range(3)
    ]
    assert [aliases[f"dift:{k}"] for k in range(18)] == expected
    assert "dift:18" not in aliases


def test_it_is_a_model_of_recipes(folder: Path) -> None:
    assert not list(folder.rglob("*.bin"))
    with safe_open(next(folder.rglob("*.safetensors")), framework="pt") as file:
        assert len(list(file.keys())) > 100
    with pytest.raises(ModelError, match=r"256x256_diffusion_uncond\.pt.*diffeat convert"):
        Extractor.from_recipe("dift-adm")
    recipe = Reading.load("dift-adm").replace(**{"model": str(folder), "frame.size": 32, "trajectory.draws": 2})
    pixels = torch.rand(40, 48, 3).numpy()
    (features,) = Extractor.from_recipe(recipe).extract([pixels])
    assert features.tensor.shape == (64, 16, 16)  # block 4 of this small model: the middle level


def test_what_is_no_such_checkpoint(folder: Path, state, tmp_path: Path) -> None:
    torch.save({**state, "label_emb.weight": torch.zeros(10, 128)}, tmp_path / "classes.pt")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(print, 2))
    for name, reason in (("classes", "conditioned on classes"), ("other", "no unconditional"), ("code", "plain")):
        with pytest.raises(ModelError, match=reason):
            convert_guided_diffusion(tmp_path / f"{name}.pt", tmp_path / "out", head_channels=HEAD)
    torch.save(state, tmp_path / "small.pt")
    with pytest.raises(ModelError, match="64 channels a head"):
        convert_guided_diffusion(tmp_path / "small.pt", tmp_path / "out")
    with pytest.raises(InvalidValueError, match=r"model_index\.json"):
        convert_guided_diffusion(tmp_path / "small.pt", folder, head_channels=HEAD)
    assert not (tmp_path / "out").exists()
