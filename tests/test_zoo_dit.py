"""The embedded transformer: a stock pipeline whose features can be read."""

from __future__ import annotations

import torch
from diffusers import DiffusionPipeline

from diffeat import Extractor, zoo
from diffeat.backbones import Backbone


def test_the_shipped_one_is_stock_small_and_samples() -> None:
    folder = zoo.path("tiny-dit")
    assert sum(f.stat().st_size for f in folder.rglob("*")) < 12e6
    pipeline = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    assert type(pipeline).__name__ == "PixArtSigmaPipeline"
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.Generator().manual_seed(0)
    images = pipeline(
        "a photo of a red car on grass", height=128, width=128, num_inference_steps=2, use_resolution_binning=False,
        clean_caption=False, generator=noise, output_type="np",
    ).images  # fmt: skip
    assert images.shape == (1, 128, 128, 3)
    assert 0.01 < images.std() < 1


def test_its_transformer_and_autoencoder_are_trained() -> None:
    """A clean latent is told from the noise on it, far better than by the noisy latent itself."""
    from PIL import Image

    from diffeat.datasets.toyworld import Toyworld
    from diffeat.geometry import FrameSpec

    backbone = Backbone.from_pretrained("tiny-dit")
    samples = [Toyworld(1, 128).sample(i) for i in range(4)]
    frame = FrameSpec(mode="squash", size=128).frame((128, 128))
    pixels = torch.stack([frame.pixels(Image.fromarray(s.image)) for s in samples])
    latents = backbone.encode_images(pixels).mean
    noisy = backbone.noise(latents, 500, torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad():
        guess = backbone.denoise(noisy, 500, backbone.condition([s.caption for s in samples], size=(128, 128)))
    clean = backbone.estimate_clean(noisy, 500, guess)
    assert (clean - latents).square().mean() < 0.5 * latents.var()


def test_ditf_tiny_reads_its_modulated_input() -> None:
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))
    feature = Extractor.from_recipe("ditf-tiny").extract([picture])[0]
    assert feature.tensor.shape == (160, 24, 32)
    assert feature.tensor.isfinite().all()
