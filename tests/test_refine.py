"""Recipes with ``refine``, and massive channels put by weights alone into every family of transformers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from benchmarks.tables.injection import inject_massive
from diffeat.activations import Catalogue, modulated_sites
from diffeat.activations.norms import PlainNorm
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, UnknownNameError
from diffeat.extraction import Extractor, Recipe
from diffeat.extraction.detect import calibration_pictures, detect
from diffeat.extraction.reduce import Place
from diffeat.refinement.adaln import modulate, normalise
from tiny.pipelines import FAMILIES, build

TRANSFORMERS = [n for n in FAMILIES if n not in ("sd15", "sd21", "sdxl", "ddpm")]
INJECTED = [3, 5]
PICTURES = list(calibration_pictures(3))


def _recipe(backbone: Backbone, **fields) -> Recipe:
    step = backbone.multiple
    size = [6 * step, 6 * step if backbone.square_only else 4 * step]
    found = [a for a in Catalogue.of(backbone, size=tuple(size)) if any(x.startswith("ditf:") for x in a.aliases)]
    # Hunyuan-DiT's second half mixes the stream with its skips, which spreads whatever is in it over all channels.
    chosen = found[1] if backbone.family.name == "hunyuan-dit" else found[-1]
    base = {
        "model": "tiny",
        "frame": {"mode": "squash", "size": size},
        "trajectory": {"timesteps": [50]},
        "activations": [chosen.id],
    }
    return Recipe.from_dict({**base, **fields})


def _likeness(feature: torch.Tensor) -> torch.Tensor:
    """Cosines of all pairs of different tokens."""
    unit = F.normalize(feature.flatten(1).float(), dim=0)
    return (unit.T @ unit)[~torch.eye(unit.shape[1], dtype=torch.bool)]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_injected_channels_collapse_raw_features_and_discard_recovers_them(name: str) -> None:
    clean, massive = (Backbone.from_pipeline(build(name)) for _ in range(2))
    recipe = _recipe(clean, refine={"discard": "pre"})
    inject_massive(massive, INJECTED, size=150, spread=0.02, timestep=50, picture=recipe.frame.size)  # pyright: ignore
    (id,) = recipe.activations
    place = Place(id, 50.0)
    assert detect(recipe, clean, [id], PICTURES)[place].channels == []
    assert detect(recipe, massive, [id], PICTURES)[place].channels == INJECTED

    raw = recipe.replace(activations=[modulated_sites(clean, [id])[0].raw], refine=None)
    wanted = _likeness(Extractor(recipe, clean).extract(PICTURES[:1])[0].tensor)
    collapsed = _likeness(Extractor(raw, massive).extract(PICTURES[:1])[0].tensor)
    discard = recipe.replace(refine={"discard": "pre", "channels": INJECTED})
    recovered = _likeness(Extractor(discard, massive).extract(PICTURES[:1])[0].tensor)
    assert (1 - collapsed).mean() < 0.02  # every token looks like every other: the families have 0.00003 to 0.004
    assert (1 - recovered).mean() > 10 * (1 - collapsed).mean()  # 50 times and more
    before, after = (torch.corrcoef(torch.stack([wanted, x]))[0, 1] for x in (collapsed, recovered))
    assert 1 - after < 0.8 * (1 - before)  # which tokens are alike is again what it was; at most 0.64


def test_discard_takes_what_the_detector_finds_in_this_model() -> None:
    massive = Backbone.from_pipeline(build("flux"))
    recipe = _recipe(massive, refine={"discard": "pre"})
    inject_massive(massive, INJECTED, size=150, spread=0.05, timestep=50, picture=recipe.frame.size)  # pyright: ignore
    (id,) = recipe.activations
    (found,) = Extractor(recipe, massive).extract(PICTURES[:1])
    (told,) = Extractor(recipe.replace(refine={"discard": "pre", "channels": INJECTED}), massive).extract(PICTURES[:1])
    assert found.provenance["discarded"] == {f"{id}@50": INJECTED}
    assert torch.equal(found.tensor, told.tensor)


@pytest.fixture(scope="module")
def flux() -> Backbone:
    return Backbone.from_pipeline(build("flux"))


def test_without_discard_and_with_one_draw_the_formula_is_the_model_s_own_tensor(flux: Backbone) -> None:
    plain = _recipe(flux).replace(**{"trajectory.timesteps": [50, 700]})
    (own,), (formula,) = (Extractor(r, flux).extract(PICTURES[:1]) for r in (plain, plain.replace(refine={})))
    assert list(own.activations) == list(formula.activations)
    for name, value in own.activations.items():
        torch.testing.assert_close(formula[name], value, rtol=1e-5, atol=1e-5)


def test_half_precision_models_give_features_of_their_precision() -> None:
    wide = Backbone.from_pipeline(build("flux"))
    half = Backbone.from_pipeline(build("flux").to(torch.bfloat16))
    recipe = _recipe(wide, refine={"discard": "pre", "channels": [1]})
    (expected,), (got,) = (Extractor(recipe, b).extract(PICTURES[:1]) for b in (wide, half))
    assert got.tensor.dtype == torch.bfloat16
    assert F.cosine_similarity(got.tensor.float(), expected.tensor, dim=0).mean() > 0.99


def test_draws_are_averaged_before_the_norm(flux: Backbone) -> None:
    recipe = _recipe(flux, refine={"discard": "drop", "channels": [1, 4]}).replace(**{"trajectory.draws": 3})
    (id,) = recipe.activations
    site = modulated_sites(flux, [id])[0]
    raw = recipe.replace(activations=[site.raw], refine=None)
    (mean,) = Extractor(raw, flux).extract(PICTURES[:1])
    (feature,) = Extractor(recipe, flux, batch_size=2).extract(PICTURES[:1])
    assert len(feature.tensor) == site.norm.channels - 2
    # the modulation is affine: recover it from two features, then apply it to the norm of the mean
    own = Extractor(recipe.replace(refine={"discard": "none"}), flux).extract(PICTURES[:1])[0].tensor.flatten(1)
    norm = normalise(mean.tensor, site.norm).flatten(1)
    centre = norm.mean(1, keepdim=True)
    gain = ((norm - centre) * (own - own.mean(1, keepdim=True))).sum(1) / (norm - centre).square().sum(1)
    shift = own.mean(1) - gain * centre[:, 0]
    expected = modulate(mean.tensor, site.norm, gain - 1, shift, channels=[1, 4], discard="drop")
    torch.testing.assert_close(feature.tensor, expected, rtol=1e-3, atol=1e-3)


def test_algebra_of_the_discards() -> None:
    raw, scale, shift = torch.randn(8, 3, 4), torch.randn(8), torch.randn(8)
    norm = PlainNorm("layer", 8, 1e-6)
    before = modulate(raw, norm, scale, shift, channels=[2], discard="pre")
    zeroed = raw.clone()
    zeroed[2] = 0
    mean, std = zeroed.mean(0), zeroed.std(0, correction=0)
    torch.testing.assert_close(before[2], -(1 + scale[2]) * mean / std + shift[2], rtol=1e-4, atol=1e-4)
    after = modulate(raw, norm, scale, shift, channels=[2], discard="post")
    whole = modulate(raw, norm, scale, shift)
    assert (after[2] == 0).all()
    assert torch.equal(after[3:], whole[3:])
    kept = [c for c in range(8) if c != 2]
    dropped = modulate(raw, norm, scale, shift, channels=[2], discard="drop")
    torch.testing.assert_close(dropped, modulate(raw[kept], PlainNorm("layer", 7, 1e-6), scale[kept], shift[kept]))
    rms = PlainNorm("rms", 8, 1e-6, weight=torch.full((8,), 2.0))
    torch.testing.assert_close(normalise(raw, rms).square().mean(0), torch.full((3, 4), 4.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"refine": {"discard": "pre", "channels": [3, 16]}}, "channels 0 to 15"),
        ({"refine": {"discard": "pre", "channels": {"ditf:3": [1]}}}, "does not read"),
        ({"refine": {}, "activations": ["transformer_blocks.0.attn.q"]}, "no modulated input"),
    ],
)
def test_what_a_model_refuses(flux: Backbone, fields: dict, says: str) -> None:
    with pytest.raises(InvalidValueError, match=says):
        Extractor(_recipe(flux, **fields), flux)


@pytest.mark.parametrize(
    ("refine", "says"),
    [
        ({"channels": [3]}, "discard is 'none'"),
        ({"discard": "before"}, "'none', 'pre', 'post' or 'drop'"),
        ({"discard": "pre", "channels": "all"}, "must be 'detected' or numbers"),
        ({"discards": "pre"}, "discard"),
        ({"discard": "pre", "ratio": 0.5}, "greater than 1"),
    ],
)
def test_what_a_recipe_refuses(refine: dict, says: str) -> None:
    with pytest.raises(InvalidValueError, match=says):
        Recipe.from_dict({"model": "m", "trajectory": {"timesteps": [1]}, "activations": ["a"], "refine": refine})


def test_block_out_of_range_and_adaln_of_a_unet(flux: Backbone) -> None:
    with pytest.raises(UnknownNameError, match="ditf:4"):
        Extractor(_recipe(flux, activations=["ditf:57"], refine={}), flux)
    unet = Backbone.from_pipeline(build("sd15"))
    recipe = _recipe(flux, refine={}).replace(activations=["up_blocks.1.adaln"])
    with pytest.raises(UnknownNameError, match=r"diffusion transformers"):
        Extractor(recipe, unet)


def test_a_recipe_without_refine_hashes_as_ever() -> None:
    recipe = Recipe.load("dift-sd21")
    assert "refine" not in recipe.content()
    assert recipe.replace(refine={}).hash != recipe.hash


def test_one_picture_cannot_tell_massive_channels(flux: Backbone) -> None:
    recipe = _recipe(flux, refine={"discard": "pre"})
    with pytest.raises(InvalidValueError, match="cannot be known"):
        detect(recipe, flux, list(recipe.activations), PICTURES[:1])  # pyright: ignore


@pytest.mark.parametrize(
    ("preset", "network", "place"),
    [
        ("ditf-flux", "FluxTransformer2DModel", "single_transformer_blocks.9.adaln"),
        ("ditf-flux-davis", "FluxTransformer2DModel", "single_transformer_blocks.5.adaln"),
        ("ditf-flux2", "Flux2Transformer2DModel", "single_transformer_blocks.19.adaln"),
        ("ditf-qwen-image", "QwenImageTransformer2DModel", "transformer_blocks.30.adaln"),
        ("ditf-dit-xl", "DiTTransformer2DModel", "transformer_blocks.14.adaln"),
        ("ditf-pixart-sigma", "PixArtTransformer2DModel", "transformer_blocks.14.adaln"),
    ],
)
def test_presets_name_blocks_of_the_real_depth(preset: str, network: str, place: str) -> None:
    import diffusers

    with torch.device("meta"):
        denoiser = getattr(diffusers, network)()
    (asked,) = Recipe.load(preset).activations
    assert modulated_sites(denoiser, [str(asked)])[0].block == place.removesuffix(".adaln")
