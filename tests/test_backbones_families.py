"""Every family against its stock pipeline: what it passes to its denoiser and what comes back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache

import diffusers
import pytest
import torch
from torch import Tensor

from diffeat.backbones import Backbone, layout_of
from diffeat.errors import InvalidValueError, ModelError
from tiny.pipelines import FAMILIES, build

TEXTS = ["a photo of a red cat", "dog"]  # of different lengths
OFF = {"guidance_scale": 1.0}
PLAIN = OFF | {"use_resolution_binning": False, "clean_caption": False}
# How a user turns guidance off in each stock pipeline.
STOCK = {
    "sd15": OFF,
    "sd21": OFF,
    "sdxl": OFF,
    "dit": OFF,
    "pixart_alpha": PLAIN,
    "pixart_sigma": PLAIN,
    "hunyuan_dit": OFF | {"use_resolution_binning": False},
    "sd3": OFF,
    "sd35": OFF,
    "flux": {"guidance_scale": 3.5},
    "chroma": OFF,
    "cogview4": OFF,
    "aura_flow": OFF,
    "lumina2": OFF,
    "sana": OFF | {"use_resolution_binning": False},
    "qwen_image": {"true_cfg_scale": 1.0},
    "z_image": {"guidance_scale": 0.0},
    "flux2_klein": OFF,
    "ddpm": {},
}
FLOW = {
    *("sd3", "sd35", "flux", "chroma", "cogview4", "aura_flow", "lumina2", "sana", "qwen_image", "z_image"),
    "flux2_klein",
}


@cache
def backbone(name: str) -> Backbone:
    return Backbone.from_pipeline(build(name), name=name)


def prompts(name: str) -> list[str]:
    # CogView 4 has no mask for padding, so texts of a batch must come to the same multiple of 16 tokens
    return {"dit": ["1", ""], "ddpm": ["", ""], "cogview4": ["a red cat", "dog"]}.get(name, TEXTS)


def size(name: str) -> tuple[int, int]:
    """Not square where the model allows it."""
    return {"dit": (64, 64), "ddpm": (24, 16)}.get(name, (96, 64))


def noisy(name: str, batch: int = 2) -> Tensor:
    model = backbone(name)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(batch, 3, size(name)[1], size(name)[0], generator=generator) * 2 - 1
    return torch.randn(model.encode_images(pixels).mean.shape, generator=generator)


def run_stock(name: str, pipeline, steps: int = 3) -> list[tuple[dict, object]]:
    """Arguments and results of the denoiser in a whole stock generation."""
    denoiser = pipeline.transformer if hasattr(pipeline, "transformer") else pipeline.unet
    calls = []

    def keep(module, args, kwargs, output):
        calls.append((dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments), output))

    said = (
        {"class_labels": [1, 1000]} if name == "dit" else {"prompt": list(prompts(name))}
    )  # Z-Image writes into the list
    said |= {} if name == "dit" else {"width": size(name)[0], "height": size(name)[1]}
    said = {"batch_size": 2} if name == "ddpm" else said
    last = {} if name in ("dit", "ddpm") else {"output_type": "latent"}
    handle = denoiser.register_forward_hook(keep, with_kwargs=True)
    try:
        pipeline(**said, **STOCK[name], **last, num_inference_steps=steps)
    finally:
        handle.remove()
    return calls


def as_map(name: str, model: Backbone, value) -> Tensor:
    """A stock latent argument as a latent map, by the stock pipeline's own means."""
    width, height = size(name)
    if name in ("flux", "chroma"):
        return model.pipeline._unpack_latents(value, height, width, model.pipeline.vae_scale_factor)
    if name == "qwen_image":
        return model.pipeline._unpack_latents(value, height, width, model.pipeline.vae_scale_factor)[:, :, 0]
    if name == "flux2_klein":
        rows = torch.arange(value.shape[1])
        ids = torch.stack([0 * rows, rows // (width // 16), rows % (width // 16), 0 * rows], dim=-1)
        return model.pipeline._unpack_latents_with_ids(value, ids[None].expand(len(value), -1, -1))
    if name == "z_image":
        return torch.stack(value)[:, :, 0]
    return value


def assert_same(ours, stock, where: str) -> None:
    if isinstance(stock, Tensor):
        assert isinstance(ours, Tensor), where
        if where == "timestep":
            stock = stock.to(ours.dtype).expand(ours.shape)
        assert ours.dtype == stock.dtype, where
        torch.testing.assert_close(ours, stock, rtol=1e-5, atol=1e-5, msg=lambda m: f"{where}: {m}")
    elif isinstance(stock, Mapping):
        assert ours.keys() == stock.keys()
        for key in stock:
            assert_same(ours[key], stock[key], f"{where}.{key}")
    elif isinstance(stock, (list, tuple)):
        assert len(ours) == len(stock), where
        for i, (a, b) in enumerate(zip(ours, stock, strict=True)):
            assert_same(a, b, f"{where}.{i}")
    else:
        assert ours == stock, where


@pytest.mark.parametrize("name", FAMILIES)
def test_the_denoiser_gets_what_the_stock_pipeline_gives_it(name: str) -> None:
    model = backbone(name)
    calls = run_stock(name, model.pipeline)
    stock, result = calls[1]
    t = model.pipeline.scheduler.timesteps[1].item()
    argument = model.family.latent_argument
    latents = as_map(name, model, stock[argument])
    rows = model.condition(prompts(name), (16, 16) if name == "ddpm" else size(name))
    ours = model.denoiser_inputs(latents, t, rows)
    for key in stock.keys() - {"return_dict"}:
        assert_same(ours[key], stock[key], "timestep" if key in ("timestep", "t") else key)
    assert ours.keys() - {"return_dict"} == stock.keys() - {"return_dict"}
    with torch.no_grad():
        prediction = model.denoise(latents, t, rows)
    result = result[0] if isinstance(result, tuple) else result.sample
    sign = -1 if name in ("lumina2", "z_image") else 1
    expected = sign * as_map(name, model, result)[:, : latents.shape[1]]
    torch.testing.assert_close(prediction, expected, rtol=1e-5, atol=2e-5)
    if name in FLOW - {"sana", "cogview4"}:  # CogView 4 is told unshifted timesteps
        # the next latent of the stock run is an Euler step along the velocity
        following = as_map(name, model, calls[2][0][argument])
        step = (model.pipeline.scheduler.timesteps[2].item() - t) / 1000
        torch.testing.assert_close(following, latents + step * prediction, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_does_not_depend_on_its_batch_mates(name: str) -> None:
    model, x = backbone(name), noisy(name, 3)
    rows = model.condition(prompts(name), size(name)).take([1, 0, 1])
    times = torch.tensor([700.0, 20.0, 300.0])
    with torch.no_grad():
        together = model.denoise(x, times, rows)
        alone = [model.denoise(x[i : i + 1], times[i], rows.take([i])) for i in range(3)]
    assert together.shape == x.shape
    assert (together - torch.cat(alone)).abs().max() <= 1e-5 * together.abs().max()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_prompt_and_the_timestep_matter(name: str) -> None:
    model, x = backbone(name), noisy(name, 1)
    first, second = (model.condition([p], size(name)) for p in prompts(name))
    with torch.no_grad():
        a, b, c = model.denoise(x, 20, first), model.denoise(x, 20, second), model.denoise(x, 700, first)
    assert name == "ddpm" or not torch.allclose(a, b, atol=1e-6)
    assert not torch.allclose(a, c, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_layout_fits_the_call(name: str) -> None:
    model, x = backbone(name), noisy(name)
    inputs = model.denoiser_inputs(x, 300, model.condition(prompts(name), size(name)))
    cells = {"sana": 32, "ddpm": 1}.get(name, 8 if name in ("sd15", "sd21", "sdxl") else 16)
    assert layout_of(model.denoiser, inputs).grid == (size(name)[1] // cells, size(name)[0] // cells)


@pytest.mark.parametrize("name", FAMILIES)
def test_half_precision_runs(name: str) -> None:
    model = Backbone.from_pipeline(build(name).to(torch.bfloat16))
    assert model.dtype == torch.bfloat16
    x = noisy(name)
    with torch.no_grad():
        prediction = model.denoise(x, 300, model.condition(prompts(name), size(name)))
        exact = backbone(name).denoise(x, 300, backbone(name).condition(prompts(name), size(name)))
    assert prediction.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(prediction.float().flatten(), exact.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("name", ["flux", "hunyuan_dit", "qwen_image", "aura_flow", "sd3"])
def test_half_precision_timesteps_are_rounded_as_the_stock_pipeline_rounds_them(name: str) -> None:
    model = Backbone.from_pipeline(build(name).to(torch.bfloat16))
    stock, _ = run_stock(name, model.pipeline)[1]
    t = model.pipeline.scheduler.timesteps[1].item()
    ours = model.denoiser_inputs(noisy(name), t, model.condition(TEXTS, size(name)))
    assert ours["timestep"].dtype == stock["timestep"].dtype
    assert torch.equal(ours["timestep"], stock["timestep"])


def stock_latents(name: str, model: Backbone, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """The normalised draw as stock image-to-image pipelines make it."""
    if name == "ddpm":
        return pixels
    vae = model.pipeline.vae
    if name == "sana":
        return vae.encode(pixels).latent * vae.config.scaling_factor
    if name == "flux2_klein":  # the pipeline takes the mode
        return model.pipeline._encode_vae_image(pixels, generator)
    if name == "qwen_image":
        z = vae.encode(pixels[:, :, None]).latent_dist.sample(generator)[:, :, 0]
        mean, std = (torch.tensor(v)[:, None, None] for v in (vae.config.latents_mean, vae.config.latents_std))
        return (z - mean) / std
    z = vae.encode(pixels).latent_dist.sample(generator)
    return (z - (vae.config.shift_factor or 0)) * vae.config.scaling_factor


@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_a_draw_of_the_posterior_is_the_stock_draw(name: str) -> None:
    model = backbone(name)
    pixels = torch.rand(2, 3, size(name)[1], size(name)[0]) * 2 - 1
    posterior = model.encode_images(pixels)
    eps = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(5))
    drawn = posterior.mean if name == "flux2_klein" else posterior.sample(eps)
    expected = stock_latents(name, model, pixels, torch.Generator().manual_seed(5))
    torch.testing.assert_close(drawn, expected, rtol=1e-5, atol=1e-5)
    assert (posterior.std == 0).all() == (name in ("sana", "ddpm"))
    back = model.decode(posterior.mean)
    assert back.shape == pixels.shape
    if name == "sd3":
        z = posterior.mean / model.pipeline.vae.config.scaling_factor + model.pipeline.vae.config.shift_factor
        torch.testing.assert_close(back, model.pipeline.vae.decode(z).sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(FAMILIES.keys() - FLOW))
def test_discrete_noise_and_clean_estimates_are_those_of_the_training_schedule(name: str) -> None:
    model = backbone(name)
    config = model.pipeline.scheduler.config
    trained = diffusers.DDPMScheduler.from_config(config)
    stepper = diffusers.DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)
    stepper.set_timesteps(10)
    latents, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    prediction = torch.randn(2, 3, 4, 4)
    for t in (0, 1, 261, 999):
        x = model.noise(latents, t, eps)
        torch.testing.assert_close(x, trained.add_noise(latents, eps, torch.tensor([t, t])), rtol=1e-5, atol=1e-6)
        expected = stepper.step(prediction, t, x).pred_original_sample
        torch.testing.assert_close(model.estimate_clean(x, t, prediction), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.noise(latents, -1, eps), latents)
    each = model.noise(latents, torch.tensor([5, 600]), eps)
    torch.testing.assert_close(each[1:], model.noise(latents[1:], 600, eps[1:]))
    for t in (1000, -2, 0.5, float("nan")):
        with pytest.raises(InvalidValueError, match="training schedule"):
            model.noise(latents, t, eps)


@pytest.mark.parametrize("name", sorted(FLOW))
def test_flow_noise_and_clean_estimates(name: str) -> None:
    model = backbone(name)
    assert model.prediction_type == "flow"
    latents, eps = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    x = model.noise(latents, torch.tensor([0.0, 260.0]), eps)
    torch.testing.assert_close(x[0], latents[0])
    torch.testing.assert_close(x[1], 0.74 * latents[1] + 0.26 * eps[1])
    torch.testing.assert_close(model.estimate_clean(x, torch.tensor([0.0, 260.0]), eps - latents), latents)
    torch.testing.assert_close(model.noise(latents, 1000, eps), eps)
    for t in (1000.5, -1):
        with pytest.raises(InvalidValueError, match="0 to 1000"):
            model.noise(latents, t, eps)


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in ("dit", "ddpm")])
def test_texts_outlive_their_encoders_at_every_size(name: str) -> None:
    model = Backbone.from_pipeline(build(name))
    first, second = size(name), (size(name)[1], size(name)[0])
    model.condition(prompts(name), first)
    model.drop_text_encoders()
    assert all(c is None for n, c in model.pipeline.components.items() if n.startswith("text_encoder"))
    x = noisy(name).transpose(-1, -2)
    with torch.no_grad():
        ours = model.denoise(x, 300, model.condition(prompts(name), second))
        whole = backbone(name).denoise(x, 300, backbone(name).condition(prompts(name), second))
    torch.testing.assert_close(ours, whole)
    with pytest.raises(ModelError, match=r"bird.*dropped"):
        model.condition(["a bird"], first)
    assert model.pipeline.__dict__.get("encode_prompt") is None
