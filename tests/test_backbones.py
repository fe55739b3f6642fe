"""The verbs of a backbone: options, micro-conditions, caching, words, bad values, and what it leaves behind."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from diffeat.backbones import Backbone, LatentPosterior
from diffeat.errors import InvalidValueError, ModelError, UnknownNameError
from diffeat.geometry import FrameSpec
from tiny.pipelines import build


@cache
def backbone(name: str) -> Backbone:
    return Backbone.from_pipeline(build(name), name=name)


def inputs(name: str, prompt: str = "a cat", size: tuple[int, int] = (96, 64), **options):
    model = backbone(name)
    h, w = model.latent_size(size)
    channels = model.encode_images(torch.zeros(1, 3, 64, 64)).mean.shape[1]
    return model.denoiser_inputs(torch.zeros(1, channels, h, w), 300, model.condition([prompt], size, **options))


def test_micro_conditions_follow_the_size() -> None:
    ids = inputs("sdxl")["added_cond_kwargs"]["time_ids"]
    assert ids.tolist() == [[64, 96, 0, 0, 64, 96]]  # heights first
    ids = inputs("sdxl", original_size=(32, 48), crops_coords_top_left=(1, 2))["added_cond_kwargs"]["time_ids"]
    assert ids.tolist() == [[32, 48, 1, 2, 64, 96]]
    added = inputs("pixart_alpha")["added_cond_kwargs"]
    assert added["resolution"].tolist() == [[64, 96]]
    assert added["aspect_ratio"].tolist() == [[pytest.approx(64 / 96)]]


def test_guidance_embedding() -> None:
    assert inputs("flux")["guidance"].tolist() == [3.5]
    assert inputs("flux", guidance_scale=1.0)["guidance"].tolist() == [1.0]


def test_timesteps_as_each_family_counts_them() -> None:
    assert inputs("sd15")["timestep"].tolist() == [300]
    assert inputs("sd3")["timestep"].tolist() == [300]
    assert inputs("flux")["timestep"].tolist() == pytest.approx([0.3])
    assert inputs("lumina2")["timestep"].tolist() == pytest.approx([0.7])
    assert inputs("z_image")["t"].tolist() == pytest.approx([0.7])


def test_classes_of_dit() -> None:
    said = ["goldfish", "1", "", "tench"]
    rows = backbone("dit").condition(said, (64, 64)).arguments()
    assert rows["class_labels"].tolist() == [1, 1, 1000, 0]
    with pytest.raises(UnknownNameError, match="goldfish"):
        backbone("dit").condition(["gold fish"], (64, 64))
    with pytest.raises(InvalidValueError, match="0 to 999"):
        backbone("dit").condition(["1001"], (64, 64))
    with pytest.raises(InvalidValueError, match="square"):
        backbone("dit").condition(["1"], (96, 64))


def test_prompts_are_encoded_once() -> None:
    model = Backbone.from_pipeline(build("sd15"))
    runs = []
    model.pipeline.text_encoder.register_forward_hook(lambda *_: runs.append(1))
    model.condition(["a cat", "a dog", "a cat"], (64, 64))
    model.condition(["a dog"], (96, 64))
    assert len(runs) == 2


def test_recording_leaves_nothing_behind() -> None:
    pipeline = build("sd21")
    scheduler, steps = pipeline.scheduler, pipeline.scheduler.timesteps.clone()
    before = torch.random.get_rng_state()
    bar = dict(pipeline._progress_bar_config)
    Backbone.from_pipeline(pipeline).condition(["a cat"], (64, 64))
    assert pipeline.scheduler is scheduler
    assert torch.equal(pipeline.scheduler.timesteps, steps)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert pipeline._progress_bar_config == bar
    assert not pipeline.unet._forward_pre_hooks
    with pytest.raises(ModelError, match="text input must be"):
        Backbone.from_pipeline(pipeline).condition([None], (64, 64))  # type: ignore[list-item]
    assert pipeline.scheduler is scheduler
    assert not pipeline.unet._forward_pre_hooks
    assert "encode_prompt" not in pipeline.__dict__


def test_rows_are_selected_and_repeated() -> None:
    rows = backbone("sd15").condition(["a cat", "a dog"], (64, 64))
    chosen = rows.take(torch.tensor([1, 1, 0]))
    assert (len(rows), len(chosen), chosen.prompts) == (2, 3, ("a dog", "a dog", "a cat"))
    texts, whole = chosen.arguments()["encoder_hidden_states"], rows.arguments()["encoder_hidden_states"]
    assert torch.equal(texts, whole[[1, 1, 0]])
    with pytest.raises(InvalidValueError, match="Row 2"):
        rows.take([2])


def test_gradients_reach_the_denoiser() -> None:
    model = backbone("sd15")
    x = torch.randn(1, 4, 8, 8)
    model.denoise(x, 10, model.condition(["a cat"], (64, 64))).sum().backward()
    assert model.denoiser.conv_in.weight.grad is not None
    model.denoiser.zero_grad(set_to_none=True)


def test_the_clean_image_at_minus_one() -> None:
    model = backbone("sd15")
    x = torch.randn(1, 4, 8, 8)
    rows = model.condition(["a cat"], (64, 64))
    with torch.no_grad():
        expected = model.denoiser(x, -1, rows.arguments()["encoder_hidden_states"]).sample
        assert torch.equal(model.denoise(model.noise(x, -1, torch.randn_like(x)), -1, rows), expected)


def test_words_of_scripts_without_blanks_and_words_that_are_cut() -> None:
    model = backbone("sd15")
    tokens = model.pipeline.tokenizer("猫在沙发上", return_offsets_mapping=True)["offset_mapping"]
    sofa = model.token_index("猫在沙发上", "沙发")
    assert sofa == [k for k, (a, b) in enumerate(tokens) if a < 4 and b > 2]
    assert model.token_index("a black\n cat", "black cat") == model.token_index("a black cat", "black cat")
    with pytest.raises(UnknownNameError, match="no word 'cat'"):
        model.token_index("a cathedral", "cat")
    length = model.pipeline.tokenizer.model_max_length
    whole = len(model.pipeline.tokenizer("incomprehensibly").input_ids) - 2
    fits = "a " * (length - 2 - whole) + "incomprehensibly"
    assert whole > 1
    assert len(model.token_index(fits, "incomprehensibly")) == whole
    with pytest.raises(InvalidValueError, match="is cut by their end"):
        model.token_index(f"a {fits}", "incomprehensibly")


WORDS = {"sd15": "cat</w>", "pixart_sigma": "▁cat", "flux": "▁cat", "aura_flow": "▁cat"}


@pytest.mark.parametrize("name", WORDS)
def test_positions_of_words(name: str) -> None:
    prompt = "a photo of a red cat and a dog"
    found = backbone(name).token_index(prompt, "Cat")
    pipeline = backbone(name).pipeline
    tokenizer = pipeline.tokenizer_2 if name == "flux" else pipeline.tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)
    assert found == [tokens.index(WORDS[name])]


def test_positions_of_words_in_several_and_templated_texts() -> None:
    prompt = "a cat and a cat"
    clip = backbone("sd15").token_index(prompt, "cat")
    assert clip == [2, 5]
    t5 = backbone("flux").token_index(prompt, "cat")
    assert backbone("sd3").token_index(prompt, "cat") == clip + [77 + p for p in t5]
    assert backbone("hunyuan_dit").token_index(prompt, "cat") == clip + [77 + p for p in t5]
    for name in ("qwen_image", "z_image", "flux2_klein", "lumina2", "sana"):  # a letter or byte is a token here
        model = backbone(name)
        first, last = model.token_index("a red cat", "red"), model.token_index("a red cat", "cat")
        assert len(first) == len(last) == 3
        assert last[0] - first[0] == 4


@pytest.mark.parametrize("name", ["qwen_image", "z_image", "lumina2", "sana"])
def test_positions_of_words_point_at_the_embeddings_that_change(name: str) -> None:
    """Texts are read left to right, so the first embedding that another word changes is that word's first token."""
    text = {"qwen_image": "encoder_hidden_states", "z_image": "cap_feats"}.get(name, "encoder_hidden_states")
    size = (64, 64)
    one, two = (backbone(name).condition([p], size).arguments()[text] for p in ("a red cat", "a red dog"))
    one, two = (v[0] if v[0].ndim == 2 else v for v in (one, two))
    changed = (one - two).abs().amax(dim=-1) > 1e-6
    assert changed.nonzero()[0].item() == backbone(name).token_index("a red cat", "cat")[0]


def test_words_that_are_not_there() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'horse'"):
        backbone("sd15").token_index("a brown horse", "hors")
    with pytest.raises(InvalidValueError, match="beyond"):
        backbone("sd15").token_index("a dog " * 60 + "cat", "cat")
    for name in ("dit", "ddpm"):
        with pytest.raises(ModelError, match="no text sequence"):
            backbone(name).token_index("a cat", "cat")


def test_bad_values() -> None:
    model = backbone("sd15")
    with pytest.raises(InvalidValueError, match=r"multiples of 8.*nearest size is 104x64"):
        model.condition(["a cat"], (101, 64))
    with pytest.raises(InvalidValueError, match="multiples of 8"):
        model.encode_images(torch.zeros(1, 3, 63, 64))
    with pytest.raises(InvalidValueError, match="no option 'sise'"):
        model.condition(["a cat"], sise=3)
    rows = model.condition(["a cat", "a dog"], (64, 64))
    with pytest.raises(InvalidValueError, match="3 latents are given with 2 rows"):
        model.denoise(torch.zeros(3, 4, 8, 8), 10, rows)
    with pytest.raises(InvalidValueError, match="64x64 pixels"):
        model.denoise(torch.zeros(2, 4, 8, 12), 10, rows)
    with pytest.raises(InvalidValueError, match="3 timesteps are given for 2 rows"):
        model.denoise(torch.zeros(2, 4, 8, 8), torch.tensor([1, 2, 3]), rows)
    with pytest.raises(InvalidValueError, match="unconditional"):
        backbone("ddpm").condition(["a cat"])


def test_a_stream_of_new_texts_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    from diffeat.backbones import encoded as module

    monkeypatch.setattr(module, "REMEMBERED_TEXTS", 3)
    backbone = Backbone.from_pipeline(build("sd15"))
    texts = [f"a {word}" for word in "cat dog car bird chair".split()]
    first = backbone.condition(texts[:1]).arguments()["encoder_hidden_states"]
    backbone.condition(texts)
    assert len(backbone.texts._rows) == sum(map(len, backbone.texts._texts.values())) == 3
    assert torch.equal(backbone.condition(texts[:1]).arguments()["encoder_hidden_states"], first)
    backbone.drop_text_encoders()
    assert len(backbone.condition([texts[0], texts[3], texts[4]])) == 3


def test_what_the_stock_pipeline_refuses_is_one_clear_error() -> None:
    backbone = Backbone.from_pipeline(build("sd15"))
    with pytest.raises(ModelError, match=r"StableDiffusionPipeline did not accept .*negative_prompt=5"):
        backbone.condition(["a cat"], negative_prompt=5, guidance_scale=2.0)


def test_frames_as_the_model_takes_them() -> None:
    frame = backbone("sd15").frame(FrameSpec("keep", shorter=60), (100, 50))
    assert (frame.original, frame.model) == ((100, 50), (120, 64))  # 120x60 at multiples of 8, 60 to the even 64
    default = backbone("sd15").frame(FrameSpec(), (100, 50)).model
    assert default == backbone("sd15").default_size
    with pytest.raises(InvalidValueError, match="multiples of 8"):
        backbone("sd15").frame(FrameSpec("squash", (60, 64)), (100, 50))
    with pytest.raises(InvalidValueError, match=r"square images only; .* makes photo\.jpg 96×64"):
        backbone("dit").frame(FrameSpec("squash", (96, 64)), (100, 50), "photo.jpg")


def test_rows_of_a_posterior() -> None:
    posterior = LatentPosterior(torch.arange(6.0).reshape(3, 2, 1, 1), torch.arange(6.0, 12).reshape(3, 2, 1, 1))
    assert posterior[1].mean.flatten().tolist() == [2, 3]
    assert posterior[-1].std.flatten().tolist() == [10, 11]
    assert posterior[1:].mean.shape == (2, 2, 1, 1)
    assert [len(one) for one in posterior] == [1, 1, 1]
    with pytest.raises(IndexError):
        posterior[3]
