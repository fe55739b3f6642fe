"""The embedded model is an ordinary diffusers directory that samples what its captions say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from skimage.feature import hog

from diffeat import zoo
from diffeat.datasets.toyworld import Toyworld
from diffeat.datasets.toyworld.captions import vocabulary
from diffeat.errors import UnknownNameError

#: Whole figures that fill the picture, on a plain background.
LARGE = {"place": "studio", "framing": "whole", "calm": "yes", "size": "large"}


@pytest.fixture(scope="module")
def pipeline():
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(str(zoo.path("tiny-unet")), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_unknown_model_names_the_known_ones():
    with pytest.raises(UnknownNameError, match="tiny-unet"):
        zoo.path("tiny-unett")


def test_it_is_a_stock_pipeline_with_the_names_of_stable_diffusion(pipeline):
    assert type(pipeline).__name__ == "StableDiffusionPipeline"
    assert type(pipeline.vae).__name__ == "AutoencoderKL"
    assert type(pipeline.text_encoder).__name__ == "CLIPTextModel"
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    modules = dict(pipeline.unet.named_modules())
    for block in ("up_blocks.1", "up_blocks.2", "down_blocks.1", "mid_block"):
        for attention in ("attn1", "attn2"):
            assert f"{block}.attentions.0.transformer_blocks.0.{attention}" in modules


def test_it_is_small_and_safe():
    folder = zoo.path("tiny-unet")
    assert json.loads((folder / "model_index.json").read_text())["safety_checker"] == [None, None]
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) < 25e6
    assert {f.suffix for f in folder.rglob("*") if f.is_file()} <= {".json", ".safetensors", ".txt"}


def test_it_samples_finite_pictures(pipeline):
    noise = torch.Generator().manual_seed(0)
    images = pipeline("a red car on grass", num_inference_steps=2, generator=noise, output_type="np").images
    assert images.shape == (1, 128, 128, 3)
    assert np.isfinite(images).all()
    assert images.std() > 0.01


def outline(picture) -> np.ndarray:
    """Gradient histograms of a picture, without its colours."""
    return hog(np.asarray(picture, dtype=float).mean(-1), 9, (16, 16), (2, 2), feature_vector=True)


@pytest.mark.slow
def test_samples_have_the_outline_of_what_their_caption_names(pipeline):
    names = ("bicycle", "boat", "bottle", "cup", "spider", "tree")
    world, views = Toyworld(1), ("left", "right")
    drawn = [
        [world.sample(1000 * k + j, name=name, view=views[j % 2], **LARGE).image for j in range(12)]
        for k, name in enumerate(names)
    ]
    means = np.stack([np.mean([outline(image) for image in images], 0) for images in drawn])
    captions = [f"a photo of a large {name} facing left on a plain background in the sun" for name in names]
    noise = torch.Generator().manual_seed(0)
    images = pipeline(
        [caption for caption in captions for _ in range(3)], guidance_scale=5.0, num_inference_steps=15, generator=noise
    ).images
    found = np.corrcoef(np.stack([outline(i) for i in images]) - means.mean(0), means - means.mean(0))[:18, 18:]
    assert (found.argmax(1) == np.repeat(range(6), 3)).mean() > 0.7  # by chance 0.17


def test_the_autoencoder_returns_a_picture_it_never_saw(pipeline):
    from diffeat.datasets.toyworld import Toyworld

    image = Toyworld(99).sample(0).image
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        again = pipeline.vae.decode(pipeline.vae.encode(pixels).latent_dist.mean).sample
    assert (again - pixels).abs().mean() < 0.12
    assert (again - pixels).abs().mean() < 0.5 * (pixels - pixels.mean((2, 3), keepdim=True)).abs().mean()


def test_each_caption_word_is_one_token_and_other_text_survives(pipeline):
    tokenizer = pipeline.tokenizer
    for word in vocabulary():
        assert len(tokenizer(word).input_ids) == 3, word
    for text in ("a photo of a spotted brown horse facing left on grass", "a zebra, quite small!"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
    assert tokenizer.eos_token_id == len(tokenizer) - 1
