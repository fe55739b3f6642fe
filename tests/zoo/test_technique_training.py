"""A ControlNet and a LoRA trained for two steps: files that load as techniques, resumable, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from diffeat.backbones import Backbone
from diffeat.errors import DatasetError, ModelError
from diffeat.techniques import ControlNet, LoRA, Scene, Session
from diffeat.training.loop import LOG
from tiny.pipelines import build
from tools.zoo.train_controlnet import Settings as ControlNetSettings
from tools.zoo.train_controlnet import train_controlnet
from tools.zoo.train_lora import Settings as LoRASettings
from tools.zoo.train_lora import train_lora


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp("training")
    build("sd15").save_pretrained(root / "model")
    (root / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(root / "pictures" / f"{i}.png")
    (root / "pictures" / "captions.csv").write_text("image,prompt\n0.png,a cat\n1.png,a dog\n")
    (root / "pictures" / "2.txt").write_text("a chair")
    return str(root / "model"), root / "pictures"


def predictions(model: str, technique: Any) -> torch.Tensor:
    backbone = Backbone.from_pretrained(model)
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pixels = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad(), Session(backbone) as session, session.use(technique) as steered:
        return steered.predict(noisy, 300, steered.prepare([Scene("x", pixels, "a cat")]))


@pytest.mark.slow
def test_controlnet_from_folder_to_technique(where: tuple[str, Path], tmp_path: Path) -> None:
    model, pictures = where
    settings = ControlNetSettings(
        model=model, size=64, steps=3, batch=2, rate=1e-2, condition="soft-edges", save_every=2
    )
    folder = train_controlnet(settings, pictures, tmp_path / "whole")
    technique = ControlNet(model=str(folder), condition="soft-edges")
    assert not torch.equal(predictions(model, technique), predictions(model, None))
    # a run that is cut off and resumed ends with the same weights
    train_controlnet(settings, pictures, tmp_path / "cut", seconds=0)
    again = train_controlnet(settings, pictures, tmp_path / "cut")
    one, two = (load_file(p / "diffusion_pytorch_model.safetensors") for p in (folder, again))
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_lora_from_folder_to_technique(where: tuple[str, Path], tmp_path: Path) -> None:
    model, pictures = where
    settings = LoRASettings(model=model, size=64, steps=2, batch=2, rate=1e-2, rank=2, alpha=4, convolutions=True)
    file = train_lora(settings, pictures, tmp_path)
    assert file.name == "lora-000002.safetensors"
    assert train_lora(settings, pictures, tmp_path) == file  # nothing left to do
    base, found = predictions(model, None), predictions(model, LoRA(path=str(file)))
    assert not torch.equal(found, base)
    assert torch.equal(predictions(model, LoRA(path=str(file)).null()), base)
    # every layer of the file does its part: the same weights merged by hand, W + alpha / rank B A
    state = load_file(file)
    backbone = Backbone.from_pretrained(model)
    for key in [k for k in state if k.endswith(".lora_A.weight")]:
        path = key.removesuffix(".lora_A.weight")
        down, up = state[key], state[f"{path}.lora_B.weight"]
        weight = backbone.denoiser.get_submodule(path.removeprefix("unet.")).weight
        weight.data += 2 * torch.einsum("or,r...->o...", up.reshape(len(up), -1), down)
    noisy = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        merged = backbone.denoise(noisy, 300, backbone.condition(["a cat"], size=(64, 64)))
    assert torch.allclose(found, merged, atol=1e-4)
    assert len(state) > 200
    assert (tmp_path / LOG).read_text().count("\n") == 3


def test_refusals(where: tuple[str, Path], tmp_path: Path) -> None:
    model, pictures = where
    (tmp_path / "none").mkdir()
    with pytest.raises(DatasetError, match="no pictures"):
        train_lora(LoRASettings(model=model), tmp_path / "none", tmp_path / "run")
    Image.new("RGB", (8, 8)).save(tmp_path / "none" / "x.png")
    with pytest.raises(DatasetError, match="x.png has no caption"):
        train_lora(LoRASettings(model=model), tmp_path / "none", tmp_path / "run")
    with pytest.raises(ModelError, match="cannot be loaded"):
        train_lora(LoRASettings(model=str(tmp_path / "nothing")), pictures, tmp_path / "run")
