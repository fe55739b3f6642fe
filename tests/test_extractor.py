"""The extractor: same features whatever the batching, one encoding per picture, early exit, clear errors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from diffeat.backbones import Backbone
from diffeat.errors import ImageError, InvalidValueError, ModelError, NonFiniteError, UnknownNameError
from diffeat.extraction import Extractor, Recipe, engine
from diffeat.trajectories import forward, keyed_normal
from tiny.pipelines import build

RECIPE = {
    "model": "tiny",
    "frame": {"mode": "squash", "size": 64},
    "trajectory": {"timesteps": [50, 261], "draws": 3},
    "activations": ["up_blocks.1", "up_blocks.2.attentions.0.transformer_blocks.0.attn2.q"],
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone.from_pipeline(build("sd15"))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = [(40, 60), (64, 64), (33, 21), (90, 50), (64, 64), (20, 80), (64, 32)]
    return [Image.fromarray(random.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


def _relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize(
    "frame", [{"mode": "squash", "size": 64}, {"mode": "keep", "longer": 64}], ids=lambda f: f["mode"]
)
def test_features_do_not_depend_on_batch_or_order(backbone: Backbone, pictures: list, frame: dict) -> None:
    recipe = Recipe.from_dict({**RECIPE, "frame": frame})
    texts = [f"a {w}" for w in "cat dog car bird chair bus tree".split()]
    one = Extractor(recipe, backbone, batch_size=1).extract(pictures, texts)
    order = [3, 0, 6, 1, 5, 2, 4]
    for batch_size in (3, 8):
        again = Extractor(recipe, backbone, batch_size=batch_size).extract(pictures, texts)
        mixed = Extractor(recipe, backbone, batch_size=batch_size).extract(
            [pictures[i] for i in order], [texts[i] for i in order]
        )
        for i in range(len(pictures)):
            assert one[i].digest == again[i].digest
            assert one[i].activations.keys() == again[i].activations.keys()
            for name, value in one[i].activations.items():
                assert _relative(again[i][name], value) <= 1e-5
                assert _relative(mixed[order.index(i)][name], value) <= 1e-5


def test_names_shapes_and_frames(backbone: Backbone, pictures: list) -> None:
    (feature,) = Extractor(Recipe.from_dict(RECIPE), backbone).extract(pictures[0])
    a, b = RECIPE["activations"]
    assert list(feature.activations) == [f"{a}@50", f"{b}@50", f"{a}@261", f"{b}@261"]
    assert feature.frame.original == (40, 60)
    assert feature.frame.model == (64, 64)
    assert feature.provenance["recipe_hash"] == Recipe.from_dict(RECIPE).hash
    with pytest.raises(InvalidValueError, match="up_blocks.1@50"):
        _ = feature.tensor


def test_a_file_and_its_pixels_give_the_same_features(backbone: Backbone, pictures: list, tmp_path: Path) -> None:
    pictures[0].save(tmp_path / "a.png")
    extractor = Extractor(Recipe.from_dict({**RECIPE, "trajectory": {"timesteps": [50]}}), backbone)
    from_file, from_memory = extractor.extract([tmp_path / "a.png", pictures[0]])
    name = RECIPE["activations"][0]
    assert torch.equal(from_file[name], from_memory[name])


def test_the_mean_of_draws_is_the_mean(backbone: Backbone, pictures: list) -> None:
    three = Extractor(Recipe.from_dict({**RECIPE, "trajectory": {"timesteps": [50], "draws": 3}}), backbone)
    mean = three.extract(pictures[0])[0]["up_blocks.1"]
    singles = []
    for draw in range(3):
        one = Extractor(
            Recipe.from_dict({**RECIPE, "trajectory": {"timesteps": [50]}}),
            backbone,
            noise=lambda shape, *, d=draw, **key: keyed_normal(shape, **{**key, "draw": d}),
        )
        singles.append(one.extract(pictures[0])[0]["up_blocks.1"])
    assert _relative(mean, torch.stack(singles).mean(0)) < 1e-6
    assert _relative(singles[0], singles[1]) > 1e-3


def test_noise_that_threads_drew_ahead_is_the_noise_of_the_picture(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    pictures = [random.integers(0, 255, (64, 64, 3), dtype=np.uint8) for _ in range(8)]
    threads: list[str] = []

    def seen(shape, **key):
        threads.append(threading.current_thread().name)
        return keyed_normal(shape, **key)

    monkeypatch.setattr(forward, "keyed_normal", seen)
    path = {"timesteps": [50], "draws": 2, "latent": "sample"}
    extractor = Extractor(Recipe.from_dict({**RECIPE, "trajectory": path}), backbone, batch_size=2)
    features = extractor.extract(pictures)
    ahead = sum(name.startswith("diffeat-read") for name in threads)
    assert ahead > 0
    assert len(threads) == 4 * len(pictures)  # each draw once: of the posterior and of the diffusion
    monkeypatch.setattr(engine, "_AHEAD", 0)
    threads.clear()
    for one, other in zip(features, extractor.extract(pictures), strict=True):
        for name, value in one.activations.items():
            assert torch.equal(value, other[name])
    assert not any(name.startswith("diffeat-read") for name in threads)


def test_each_picture_is_encoded_once_and_later_blocks_never_run(
    backbone: Backbone, pictures: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = backbone.encode_images
    monkeypatch.setattr(backbone, "encode_images", lambda pixels: encoded.append(len(pixels)) or encode(pixels))
    ran = []
    handles = [
        module.register_forward_hook(lambda *_, n=name: ran.append(n))
        for name, module in backbone.denoiser.named_modules()
        if name in ("up_blocks.1", "up_blocks.2", "up_blocks.3", "conv_out")
    ]
    try:
        Extractor(Recipe.from_dict({**RECIPE, "activations": ["up_blocks.1"]}), backbone, batch_size=4).extract(
            pictures
        )
    finally:
        for handle in handles:
            handle.remove()
    assert sum(encoded) == len(pictures)
    rows = len(pictures) * 2 * 3
    assert ran == ["up_blocks.1"] * len(ran)
    assert len(ran) <= -(-rows // 4) + len(pictures)


def test_out_of_memory_halves_the_batch_and_goes_on(
    backbone: Backbone, pictures: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe.from_dict(RECIPE)
    expected = Extractor(recipe, backbone, batch_size=2).extract(pictures[:3])
    seen = []
    inputs = backbone.denoiser_inputs

    def limited(noisy: torch.Tensor, *args, **kwargs):
        seen.append(len(noisy))
        if len(noisy) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inputs(noisy, *args, **kwargs)

    monkeypatch.setattr(backbone, "denoiser_inputs", limited)
    features = Extractor(recipe, backbone, batch_size=8).extract(pictures[:3])
    assert seen[:3] == [8, 4, 2]
    assert max(seen[2:]) == 2
    for feature, reference in zip(features, expected, strict=True):
        for name, value in reference.activations.items():
            assert _relative(feature[name], value) <= 1e-5


def test_a_single_row_that_does_not_fit_is_an_error(
    backbone: Backbone, pictures: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_args, **_kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(backbone, "denoiser_inputs", never)
    with pytest.raises(ModelError, match="64×64.*does not fit"):
        Extractor(Recipe.from_dict(RECIPE), backbone).extract(pictures[0])


def test_non_finite_features_name_the_activation(pictures: list) -> None:
    broken = Backbone.from_pipeline(build("sd15"))
    with torch.no_grad():
        broken.denoiser.get_submodule("up_blocks.1.resnets.0.conv2").weight.fill_(float("nan"))
    extractor = Extractor(Recipe.from_dict({**RECIPE, "activations": ["up_blocks.0", "up_blocks.1"]}), broken)
    with pytest.raises(NonFiniteError, match=r"up_blocks\.1@50"):
        extractor.extract(pictures[0])


def test_features_stay_attached_for_fine_tuning(backbone: Backbone, pictures: list) -> None:
    recipe = Recipe.from_dict({**RECIPE, "activations": ["up_blocks.1"], "trajectory": {"timesteps": [50], "draws": 2}})
    (feature,) = Extractor(recipe, backbone, grad=True).extract(pictures[0])
    weight = backbone.denoiser.get_submodule("up_blocks.1.resnets.0.conv2").weight
    (gradient,) = torch.autograd.grad(feature.tensor.square().sum(), weight)
    assert gradient.abs().sum() > 0
    later = backbone.denoiser.get_submodule("up_blocks.2.resnets.0.conv2").weight
    assert later.grad is None
    assert not Extractor(recipe, backbone).extract(pictures[0])[0].tensor.requires_grad


def test_fused_maps_are_the_resized_channels(backbone: Backbone, pictures: list) -> None:
    plain = Recipe.from_dict({**RECIPE, "trajectory": {"timesteps": [50]}})
    (parts,) = Extractor(plain, backbone).extract(pictures[0])
    (fused,) = Extractor(plain.replace(fuse={"kind": "concat"}), backbone).extract(pictures[0])
    small, large = parts.activations.values()
    assert fused.tensor.shape[0] == small.shape[0] + large.shape[0]
    assert torch.equal(fused.tensor[small.shape[0] :], large)
    resized = torch.nn.functional.interpolate(small[None], size=large.shape[-2:], mode="bilinear", align_corners=False)
    assert torch.allclose(fused.tensor[: small.shape[0]], resized[0])


def test_globs_name_many(backbone: Backbone, pictures: list) -> None:
    recipe = Recipe.from_dict({**RECIPE, "activations": ["up_blocks.?"], "trajectory": {"timesteps": [50]}})
    (feature,) = Extractor(recipe, backbone).extract(pictures[0])
    assert list(feature.activations) == [f"up_blocks.{i}" for i in range(4)]


def test_misspelt_activations_are_reported_before_any_picture(backbone: Backbone) -> None:
    with pytest.raises(UnknownNameError, match=r"up_blocks\.1"):
        Extractor(Recipe.from_dict({**RECIPE, "activations": ["up_block.1"]}), backbone)


def test_bad_pictures_can_be_passed_over(backbone: Backbone, pictures: list, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"nothing")
    extractor = Extractor(Recipe.from_dict(RECIPE), backbone)
    with pytest.raises(ImageError, match=r"bad\.png"):
        extractor.extract([pictures[0], tmp_path / "bad.png"])
    failed = []
    mixed = [pictures[0], tmp_path / "bad.png", pictures[1]]
    good = list(extractor.stream(mixed, on_error=lambda name, error: failed.append((name, str(error)))))
    assert [f.frame.original for f in good] == [(40, 60), (64, 64)]
    assert len(failed) == 1
    assert failed[0][0].endswith("bad.png")


def test_too_few_prompts(backbone: Backbone, pictures: list) -> None:
    with pytest.raises(InvalidValueError, match="2 images and 1 prompts"):
        Extractor(Recipe.from_dict(RECIPE), backbone).extract(pictures[:2], ["a cat"])
    numbers: Any = [3]
    with pytest.raises(InvalidValueError, match="A prompt is a text or None, not 3"):
        Extractor(Recipe.from_dict(RECIPE), backbone).extract(pictures[:1], numbers)


def test_noise_that_is_none_is_refused(backbone: Backbone, pictures: list) -> None:
    number: Any = 3
    with pytest.raises(InvalidValueError, match="not 3"):
        Extractor(Recipe.from_dict(RECIPE), backbone, noise=number)
    nothing: Any = lambda shape, **_: None  # noqa: E731
    with pytest.raises(InvalidValueError, match="NoneType, the picture's latent of shape"):
        Extractor(Recipe.from_dict(RECIPE), backbone, noise=nothing).extract(pictures[0])


@pytest.mark.parametrize("frame", [{"mode": "squash", "size": 64}, {"mode": "keep", "longer": 64}], ids=["one", "own"])
@pytest.mark.parametrize("family", ["sd15", "sdxl", "pixart_alpha", "sd3"])
def test_text_encoders_are_freed_once_all_texts_are_known(family: str, frame: dict, pictures: list) -> None:
    activations = ["mid_block" if family in ("sd15", "sdxl") else "transformer_blocks.0"]
    recipe = Recipe.from_dict({**RECIPE, "activations": activations, "prompt": "a cat", "frame": frame})
    texts = ["a dog", None, "a dog"]
    before = Extractor(recipe, Backbone.from_pipeline(build(family)), batch_size=2)
    after = Extractor(recipe, Backbone.from_pipeline(build(family)), batch_size=2)
    assert after.settle_texts({"a dog", None})
    assert after.backbone.pipeline.text_encoder is None
    assert after.fingerprint == before.fingerprint
    for one, other in zip(before.extract(pictures[:3], texts), after.extract(pictures[:3], texts), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one.activations)
    with pytest.raises(ModelError, match="'a bird' is not encoded yet"):
        after.extract(pictures[:1], "a bird")


def test_text_encoders_stay_where_they_may_be_needed(backbone: Backbone) -> None:
    told = Recipe.from_dict({**RECIPE, "techniques": [{"kind": "prompt", "text": "a photo"}]})
    assert not Extractor(told, backbone).settle_texts({None})
    assert not Extractor(Recipe.from_dict(RECIPE), backbone).settle_texts({str(number) for number in range(300)})
    assert backbone.pipeline.text_encoder is not None
