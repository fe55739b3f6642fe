"""Models from directories and names: what loads, in which precision, and what each kind of broken model says."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from diffeat.backbones import Backbone, cards, family_named, load_meta_denoiser, loading, resolve_model
from diffeat.errors import InvalidValueError, ModelError, UnknownNameError
from tiny.pipelines import FAMILIES, build


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("models")

    @cache
    def save(name: str) -> Path:
        build(name).save_pretrained(root / name)
        return root / name

    return save


@pytest.fixture
def copy(saved, tmp_path: Path) -> Path:
    """A directory to break."""
    return Path(shutil.copytree(saved("sd15"), tmp_path / "model"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_pipeline_loads_as_its_family(name: str, saved) -> None:
    model = Backbone.from_pretrained(str(saved(name)))
    whole = Backbone.from_pipeline(build(name))
    assert model.family.name == whole.family.name
    assert model.dtype == torch.float32
    state, expected = model.denoiser.state_dict(), whole.denoiser.state_dict()
    assert all(torch.equal(state[k], expected[k]) for k in expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_meta_denoiser_needs_no_weights(name: str, saved, tmp_path: Path) -> None:
    bare = shutil.copytree(saved(name), tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
    denoiser, family = load_meta_denoiser(str(bare))
    whole = Backbone.from_pipeline(build(name))
    assert family.name == whole.family.name
    assert {k: v.shape for k, v in denoiser.state_dict().items()} == {
        k: v.shape for k, v in whole.denoiser.state_dict().items()
    }
    assert all(p.is_meta for p in denoiser.parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
@torch.no_grad()
def test_the_autoencoder_stays_exact_where_it_asks_for_it(dtype, saved, copy: Path) -> None:
    half = torch.bfloat16 if dtype == "bfloat16" else dtype
    upcast = Backbone.from_pretrained(str(saved("sdxl")), dtype=dtype)
    assert (upcast.dtype, upcast.pipeline.vae.dtype) == (half, torch.float32)
    pixels = torch.rand(1, 3, 64, 64)
    exact = Backbone.from_pipeline(build("sdxl")).encode_images(pixels)
    assert torch.equal(upcast.encode_images(pixels).mean, exact.mean)
    held = Backbone.from_pipeline(build("sdxl").to(half))
    expected = build("sdxl").vae.to(half).float().encode(pixels * 2 - 1).latent_dist.mean * 0.13
    assert torch.equal(held.encode_images(pixels * 2 - 1).mean, expected)
    assert held.pipeline.vae.dtype == half
    config = json.loads((copy / "vae" / "config.json").read_text()) | {"force_upcast": False}
    (copy / "vae" / "config.json").write_text(json.dumps(config))
    plain = Backbone.from_pretrained(str(copy), dtype=dtype)
    assert (plain.dtype, plain.pipeline.vae.dtype) == (half, half)
    assert plain.encode_images(pixels).mean.dtype == torch.float32


def test_a_pipeline_without_text_encoders_says_so(saved) -> None:
    pipeline = build("sd15")
    pipeline.text_encoder = None
    with pytest.raises(ModelError, match="no text_encoder"):
        Backbone.from_pipeline(pipeline)


def test_several_places_are_tried_in_order(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"gone": ("no/such", str(saved("sd15"))), "lost": ("no/such", "nor/this")}
    card = cards()["sd15"]
    monkeypatch.setattr(loading, "cards", lambda: {k: card.model_copy(update={"ids": v}) for k, v in places.items()})
    assert Backbone.from_pretrained("gone").name == "gone"
    assert load_meta_denoiser("gone")[1].name == "sd"
    with pytest.raises(ModelError, match=r"(?s)'lost'.*no/such: .*nor/this: "):
        Backbone.from_pretrained("lost")


def test_what_a_card_says_is_heeded(saved, monkeypatch: pytest.MonkeyPatch) -> None:
    card = cards()["sd15"]
    changes = {
        "wrong": {"ids": (str(saved("sd15")),), "prediction": "v_prediction"},
        "gated": {"ids": ("no/such",), "gated": True, "licence": "strict-1.0"},
        "pinned": {"ids": ("no/such", "nor/this"), "revision": "abc"},
    }
    monkeypatch.setattr(loading, "cards", lambda: {k: card.model_copy(update=v) for k, v in changes.items()})
    with pytest.raises(ModelError, match=r"wrong predicts 'v_prediction'.*'epsilon'"):
        Backbone.from_pretrained("wrong")
    with pytest.raises(ModelError, match=r"accept its licence \(strict-1\.0\)"):
        load_meta_denoiser("gated")
    asked: list[tuple[str, str | None]] = []

    def fetch_file(place: str, _: str, revision: str | None) -> Path:
        asked.append((place, revision))
        raise loading.UnreachableError("nothing there")

    monkeypatch.setattr(loading, "fetch_file", fetch_file)
    for revision in (None, "mine"):
        with pytest.raises(ModelError, match="nothing there"):
            load_meta_denoiser("pinned", revision=revision)
    assert asked == [("no/such", "abc"), ("nor/this", None), ("no/such", "mine"), ("nor/this", "mine")]


def test_names_of_models() -> None:
    promised = (
        "sd15 sd21 sd21-base sdxl playground-v2 pixart-alpha pixart-sigma sd3 sd3.5-medium sd3.5-large flux-dev "
        "flux-schnell aura-flow lumina2 sana hunyuan-dit dit-xl qwen-image z-image flux2"
    )
    assert set(promised.split()) <= cards().keys()
    assert len(resolve_model("sd21")) > 1
    assert resolve_model("someone/some-model") == ["someone/some-model"]
    with pytest.raises(UnknownNameError, match="'sd15'"):
        resolve_model("sd1.5")


def test_a_hub_model_without_a_connection_tells_the_ways_out() -> None:
    for load in (Backbone.from_pretrained, load_meta_denoiser):
        with pytest.raises(ModelError, match=r"no/such-model.*hub.*connection.*path of that directory"):
            load("no/such-model")


def test_unknown_precision_and_family(saved) -> None:
    with pytest.raises(InvalidValueError, match="'float16'"):
        Backbone.from_pretrained(str(saved("sd15")), dtype="float61")
    with pytest.raises(UnknownNameError, match="'flux'"):
        Backbone.from_pretrained(str(saved("sd15")), family="fluks")
    assert family_named("sd").name == "sd"


def test_not_a_pipeline(tmp_path: Path) -> None:
    (tmp_path / "photo.txt").write_text("")
    reasons = {".": "no model_index.json", "photo.txt": "a file", "x": "not there"}
    for path, reason in ((tmp_path / name, reason) for name, reason in reasons.items()):
        for load in (Backbone.from_pretrained, load_meta_denoiser):
            with pytest.raises(ModelError, match=reason):
                load(str(path))
    with pytest.raises(ModelError, match="no unet"):
        Backbone.from_pipeline(object())


def test_broken_directories(copy: Path) -> None:
    path = str(copy)
    with pytest.raises(ModelError, match="no variant 'fp16'"):
        Backbone.from_pretrained(path, variant="fp16")
    weights = copy / "unet" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"version https://git-lfs.github.com/spec/v1"):
        weights.write_bytes(damaged)
        with pytest.raises(ModelError, match=r"diffusion_pytorch_model.safetensors is (damaged|empty)"):
            Backbone.from_pretrained(path)
    weights.unlink()
    with pytest.raises(ModelError, match="could not be loaded"):
        Backbone.from_pretrained(path)
    shutil.rmtree(copy / "vae")
    with pytest.raises(ModelError, match="incomplete: vae"):
        Backbone.from_pretrained(path)
    (copy / "model_index.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        Backbone.from_pretrained(path)


def test_a_foreign_class_is_named(copy: Path) -> None:
    index = json.loads((copy / "model_index.json").read_text())
    index["unet"][1] = "UNetOfTomorrow"
    (copy / "model_index.json").write_text(json.dumps(index))
    for load in (Backbone.from_pretrained, load_meta_denoiser):
        with pytest.raises(ModelError, match="UNetOfTomorrow"):
            load(str(copy))


def test_loading_is_quiet_and_leaves_settings_alone(saved, capfd: pytest.CaptureFixture) -> None:
    import diffusers.utils.logging as logging

    logging.set_verbosity_warning()
    logging.enable_progress_bar()
    try:
        Backbone.from_pretrained(str(saved("sd15"))).condition(["a cat"])
        assert logging.get_verbosity() == logging.WARNING
        assert logging.is_progress_bar_enabled()
    finally:
        logging.set_verbosity_error()
    assert capfd.readouterr() == ("", "")


def test_a_pipeline_saved_without_one_of_its_text_encoders(tmp_path: Path) -> None:
    """As Stable Diffusion 3 without T5, which the stock loader takes only where it is told so."""
    pipeline = build("sd3")
    pipeline.text_encoder_3 = pipeline.tokenizer_3 = None
    pipeline.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipeline.save_pretrained(tmp_path / "sd3")
    loaded = Backbone.from_pretrained(str(tmp_path / "sd3"))
    assert len(loaded.condition(["a cat", "a dog"], size=(64, 64))) == 2
