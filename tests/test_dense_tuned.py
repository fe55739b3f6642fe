"""What is trained in a diffusion model beside a head: gradients reach it, it is saved, and it fits its model alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.backbones import Backbone
from diffeat.datasets import MaskDataset
from diffeat.datasets.labelled import MaskSample
from diffeat.errors import InvalidValueError, ModelError
from diffeat.extraction import Extractor, Reading, load_source
from diffeat.tasks.dense import DenseHead, DenseOptions
from diffeat.tasks.dense.tuned import tuned_of
from diffeat.tasks.predictors.predictor import Predictor
from diffeat.training.heads.prepare import with_gradients
from diffeat.training.heads.train import train_dense
from tiny.pipelines import build

WANTED = ["up_blocks.0", "up_blocks.1"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    build("sd15").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> MaskDataset:
    folder = tmp_path_factory.mktemp("halves")
    for k in range(2):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, 32:] = 1
        pixels = np.random.default_rng(k).integers(0, 60, (64, 64, 3)) + 150 * mask[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")
        Image.fromarray(mask).save(folder / f"{k}_mask.png")
    samples = tuple(MaskSample(folder / f"{k}.png", folder / f"{k}_mask.png") for k in range(2))
    return MaskDataset("halves", "train", samples, ("left", "right"))


def source(model: Path, **changes: Any) -> Extractor:
    fields = {
        "model": str(model), "frame": {"mode": "squash", "size": 64}, "prompt": "a cat",
        "trajectory": {"timesteps": [50]}, "activations": WANTED,
    }  # fmt: skip
    loaded = load_source(Reading.from_dict(fields | changes), device="cpu")
    assert isinstance(loaded, Extractor)
    return loaded


@pytest.mark.parametrize("options", [{"tune": "lora", "rank": 2}, {"tune": "denoiser"}, {"learn_text": True}])
def test_what_is_tuned_is_trained_saved_and_read_again(
    options: Any, model: Path, data: MaskDataset, tmp_path: Path
) -> None:
    extractor = source(model)
    before = {n: w.clone() for n, w in extractor.backbone.denoiser.state_dict().items()}
    plain = extractor.extract(data[0].image)[0]
    settings = DenseOptions(steps=2, batch=2, every=2, tune_rate=1e-2, flip=0, lovasz=0, **options)
    outcome = train_dense(extractor, data, tmp_path / "run", settings)
    assert isinstance(outcome.predictor.head, DenseHead)
    assert outcome.predictor.head.tuned is not None
    changed = extractor.extract(data[0].image)[0]
    assert not torch.equal(changed[WANTED[1]], plain[WANTED[1]])
    after = extractor.backbone.denoiser.state_dict()
    for name, weight in before.items() if "denoiser" not in options.values() else ():
        place = name if name in after else name.replace(".weight", ".parametrizations.weight.original")
        assert torch.equal(after[place], weight)
    loaded = Predictor.load(tmp_path / "run", device="cpu")
    again = loaded.source.extract(data[0].image)[0]
    assert torch.allclose(again[WANTED[1]], changed[WANTED[1]], rtol=1e-4, atol=1e-5)


def test_a_tuned_model_starts_where_a_frozen_one_does_and_learns_more(
    model: Path, data: MaskDataset, tmp_path: Path
) -> None:
    settings = {"steps": 8, "batch": 2, "every": 8, "flip": 0, "lovasz": 0, "schedule": "constant"}
    frozen, tuned = (
        train_dense(source(model), data, tmp_path / name, DenseOptions(**settings, **options)).losses
        for name, options in (("frozen", {"variants": 1}), ("tuned", {"tune": "lora", "tune_rate": 1e-2}))
    )
    assert tuned[0] == pytest.approx(frozen[0], abs=1e-5)
    assert all(one < other for one, other in zip(tuned[2:], frozen[2:], strict=True))


@pytest.mark.slow
def test_a_tuned_training_goes_on_to_the_same_weights(model: Path, data: MaskDataset, tmp_path: Path) -> None:
    settings = {"batch": 1, "every": 1, "tune": "lora", "tune_rate": 1e-2, "schedule": "constant", "lovasz": 0}
    train_dense(source(model), data, tmp_path / "whole", DenseOptions(steps=2, **settings))
    train_dense(source(model), data, tmp_path / "parts", DenseOptions(steps=1, **settings))
    train_dense(source(model), data, tmp_path / "parts", DenseOptions(steps=2, **settings), force=True)
    one, other = ((tmp_path / n / "predictor.safetensors").read_bytes() for n in ("whole", "parts"))
    assert one == other


def test_gradients_are_those_without_checkpointing(model: Path, data: MaskDataset) -> None:
    gradients = []
    for checkpointing in (False, True):
        extractor = source(model)
        tuned = tuned_of(extractor, "denoiser")
        live = with_gradients(extractor)
        if not checkpointing:
            extractor.backbone.denoiser.disable_gradient_checkpointing()
        (feature,) = live.extract(data[0].image)
        torch.stack([feature[name].square().mean() for name in WANTED]).sum().backward()
        gradients.append([w.grad for w in tuned.parameters()])
    assert any(g is not None and g.abs().sum() > 0 for g in gradients[0])
    for one, other in zip(*gradients, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_what_cannot_be_tuned_is_one_line(model: Path, data: MaskDataset, tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match="one diffusion model"):
        train_dense(load_source("baseline:rgb"), data, tmp_path / "rgb", DenseOptions(tune="lora"))
    extractor = source(model)
    with pytest.raises(InvalidValueError, match="leave the prompt out"):
        train_dense(extractor, data, tmp_path / "text", DenseOptions(learn_text=True), prompt="a dog")
    tuned = tuned_of(extractor, "lora", rank=2)
    with pytest.raises(ModelError, match="do not fit this model"):
        tuned.load({name: weight[:1] for name, weight in tuned.state_dict().items()})
    with pytest.raises(InvalidValueError, match="walks"):
        tuned_of(source(model, trajectory={"kind": "inversion", "steps": 2}), "lora")
    half = Extractor(source(model).recipe, Backbone.from_pretrained(str(model), dtype="bfloat16"))
    with pytest.raises(InvalidValueError, match="float32"):
        train_dense(half, data, tmp_path / "half", DenseOptions(tune="denoiser"))
