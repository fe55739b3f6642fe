"""Techniques on tiny pipelines: undone whatever happens, null twins equal to the base, clear refusals."""

# ruff: noqa: F811 (arguments are named like the fixtures that are imported)
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from diffeat import Extractor, Recipe
from diffeat.backbones import Backbone
from diffeat.errors import InvalidValueError, ModelError, NonFiniteError
from diffeat.extraction.views import Views
from diffeat.techniques import (
    Combination,
    ControlNet,
    DenoiseFrom,
    Guidance,
    IPAdapter,
    LoRA,
    Prompt,
    Scene,
    Session,
)
from diffeat.techniques.parse import parse_combination
from diffeat.techniques.weights import fingerprint_with
from support.techniques import SIZE, all_of, backbone, files, fingerprint, picture, recipe  # noqa: F401 (fixtures)
from tiny.pipelines import build


def features(backbone: Backbone, *techniques: Any, **changes: Any) -> torch.Tensor:
    found = Extractor(recipe(*techniques, **changes), backbone).extract([picture(0), picture(1)])
    return torch.cat([m.flatten() for f in found for m in f.activations.values()])


def test_all_techniques_at_once_are_undone_and_their_null_twin_is_the_base(backbone: Backbone, files: Any) -> None:
    base, before = features(backbone), fingerprint(backbone.pipeline)
    together = Combination(all_of(files))
    assert not torch.allclose(features(backbone, *together), base)
    assert torch.equal(features(backbone, *together.null()), base)
    assert torch.equal(features(backbone), base)
    assert fingerprint(backbone.pipeline) == before


def test_a_lora_of_the_text_encoder_changes_the_text_only_while_it_is_there(backbone: Backbone, files: Any) -> None:
    scene = [Scene("x", torch.zeros(3, SIZE, SIZE), "a cat")]
    with Session(backbone) as session:
        with session.use() as steered:
            plain = steered.prepare(scene).conditioning.rows[0]["encoder_hidden_states"]
        with session.use(LoRA(path=str(files / "lora.safetensors"))) as steered:
            changed = steered.prepare(scene).conditioning.rows[0]["encoder_hidden_states"]
        with session.use() as steered:
            again = steered.prepare(scene).conditioning.rows[0]["encoder_hidden_states"]
    assert not torch.allclose(plain, changed)
    assert torch.equal(plain, again)


@pytest.mark.parametrize("scale", [0.5, -0.75])
def test_a_lora_is_its_weights_merged_by_hand(backbone: Backbone, files: Any, scale: float) -> None:
    """W + scale · alpha/rank · B A."""
    file = files / "lora.safetensors"
    from safetensors.torch import load_file

    state = load_file(file)
    merged = Backbone.from_pipeline(build("sd15"))
    modules = {f"lora_unet_{p.replace('.', '_')}": m for p, m in merged.pipeline.unet.named_modules()} | {
        f"lora_te_{p.replace('.', '_')}": m for p, m in merged.pipeline.text_encoder.named_modules()
    }
    for key in [k for k in state if k.endswith("alpha")]:
        name = key.removesuffix(".alpha")
        up, down = state[f"{name}.lora_up.weight"], state[f"{name}.lora_down.weight"]
        modules[name].weight.data += scale * state[key] / 2 * up @ down
    found = features(backbone, LoRA(path=str(file), scale=scale))
    assert torch.allclose(found, features(merged), rtol=1e-4, atol=1e-5)


def test_layers_are_changed_in_any_order(backbone: Backbone, files: Any) -> None:
    adapter, lora = IPAdapter(path=str(files), file="ip.safetensors"), LoRA(path=str(files / "lora.safetensors"))
    one, two = features(backbone, adapter, lora), features(backbone, lora, adapter)
    assert torch.allclose(one, two, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one, features(backbone, adapter))
    assert not torch.allclose(one, features(backbone, lora))


class Writes:
    """A technique that does what none may do."""

    label = "writes"

    def __init__(self, sly: bool) -> None:
        self.sly = sly

    def apply(self, pipeline: Any) -> None:
        weight = pipeline.unet.conv_in.weight
        pipeline.unet.mid_block.register_forward_hook(lambda *_: None)
        if self.sly:
            weight.data *= 2
        else:
            with torch.no_grad():
                weight.add_(1)

    def null(self) -> Any:
        return Prompt()


@pytest.mark.parametrize("sly", [False, True])
def test_a_technique_that_writes_into_weights_is_refused_and_undone(backbone: Backbone, sly: bool) -> None:
    before = fingerprint(backbone.pipeline)
    refused = pytest.raises(ModelError, match=r"wrote into 1 weight of .*conv_in.weight.* put back")
    with refused, Session(backbone) as session, session.use(Writes(sly)):
        pass
    assert fingerprint(backbone.pipeline) == before


class Nothing:
    """A technique that does nothing."""

    label = "nothing"

    def apply(self, pipeline: Any) -> None:
        pass

    def null(self) -> Any:
        return self


def test_an_error_on_its_way_is_not_hidden_by_written_weights(backbone: Backbone) -> None:
    before, weight = fingerprint(backbone.pipeline), backbone.pipeline.unet.conv_in.weight

    def fail() -> None:
        with Session(backbone) as session, session.use(Nothing()), torch.no_grad():
            weight.add_(1)
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        fail()
    assert ["wrote into 1 weight of the model" in note for note in caught.value.__notes__] == [True]
    assert fingerprint(backbone.pipeline) == before


def test_a_session_used_again_repairs_weights_too(backbone: Backbone) -> None:
    before, session = fingerprint(backbone.pipeline), Session(backbone)
    for _ in range(2):
        with pytest.raises(ModelError, match="put back"), session, session.use(Writes(False)):
            pass
        assert fingerprint(backbone.pipeline) == before


def test_weights_that_are_not_finite_are_not_taken_for_written_ones(files: Any) -> None:
    broken = Backbone.from_pipeline(build("sd15"))
    with torch.no_grad():
        broken.pipeline.unet.mid_block.resnets[0].conv1.weight.fill_(float("nan"))
    recipes = [recipe(), recipe(LoRA(path=str(files / "lora.safetensors")))]
    with pytest.raises(NonFiniteError, match="NaN"):
        Views(recipes, broken).extract([picture()])


def test_recipes_refuse_guidance_that_changes_nothing() -> None:
    steps = DenoiseFrom(start=260, steps=2)
    assert recipe(Guidance(scale=3), steps).techniques == (Guidance(scale=3), steps)
    assert recipe(Guidance(scale=1)).techniques == (Guidance(scale=1),)
    for techniques in ([Guidance(scale=3)], [Guidance(scale=3), steps.null()]):
        with pytest.raises(InvalidValueError, match=r"techniques: guidance ×3 changes predictions[^\n]*$") as caught:
            recipe(*techniques)
        assert "\n" not in str(caught.value)
    view = {"techniques": [{"kind": "guidance"}]}
    with pytest.raises(InvalidValueError, match="add denoise-from with steps, or leave it out"):
        recipe(views=[view], fuse={"kind": "mean"})


def test_refusals_name_the_reason_and_leave_the_backbone_alone(backbone: Backbone, files: Any, tmp_path: Any) -> None:
    before = fingerprint(backbone.pipeline)
    broken = lambda picture: picture[:3]  # noqa: E731
    for error, match, technique in [
        (ModelError, "another architecture: .* layers do not fit", LoRA(path=str(files / "wide.safetensors"))),
        (ModelError, "cannot be read", LoRA(path=str(tmp_path / "none.safetensors"))),
        (ModelError, "another base model: it has cross_attention_dim 16", ControlNet(model=str(files / "other"))),
        (ModelError, "is not there", ControlNet(model=str(tmp_path / "none"))),
        (InvalidValueError, "no condition 'cany'. Did you mean 'canny'",
         ControlNet(model=str(files / "control"), condition="cany")),
        (InvalidValueError, "has shape", ControlNet(model=str(files / "control"), condition=broken)),
        (InvalidValueError, "no caption for 'image-", Prompt(captions={"other.png": "a cat"})),
        (InvalidValueError, "no caption file", Prompt(captions=tmp_path / "none.csv")),
        (InvalidValueError, "not above the timestep 200", DenoiseFrom(start=150, steps=2)),
        (ModelError, "IP-Adapter", IPAdapter(path=str(tmp_path))),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            features(backbone, LoRA(path=str(files / "lora.safetensors")), technique)
        assert fingerprint(backbone.pipeline) == before, technique
    with pytest.raises(InvalidValueError, match=r"is not valid: start: Input should be"):
        DenoiseFrom(start=2000)
    with pytest.raises(InvalidValueError, match="there can be one"):
        Combination([Guidance(), Guidance(scale=3)])
    with pytest.raises(ModelError, match="ControlNets are supported for UNet"):
        Session(Backbone.from_pipeline(build("pixart_sigma"))).__enter__().use(ControlNet(model="x")).__enter__()


def test_an_error_in_the_middle_of_a_stream_undoes_everything(backbone: Backbone, files: Any) -> None:
    before = fingerprint(backbone.pipeline)
    extractor = Extractor(recipe(*all_of(files)), backbone)
    stream = extractor.stream([picture(i) for i in range(40)])
    next(stream)
    base = features(backbone)  # the suspended stream leaves the base to others
    stream.close()
    assert torch.equal(base, features(backbone))
    assert fingerprint(backbone.pipeline) == before


def test_recipes_hold_techniques(files: Any, tmp_path: Any) -> None:
    held = recipe(*all_of(files))
    held.save(tmp_path / "r.yaml")
    loaded = Recipe.load(tmp_path / "r.yaml")
    assert loaded == held
    assert loaded.hash == held.hash
    assert loaded.hash != recipe().hash
    assert "techniques" not in recipe().content()
    with pytest.raises(InvalidValueError, match="techniques"):
        held.replace(techniques=[{"kind": "controlnet", "model": "x", "scale": float("nan")}])


def test_lambdas_are_told_apart(backbone: Backbone, files: Any) -> None:
    full, none = lambda p: np.ones(p.shape[:2]), lambda p: np.zeros(p.shape[:2])
    one, two = (ControlNet(model=str(files / "control"), condition=c) for c in (full, none))
    assert one != two
    assert one == ControlNet(model=str(files / "control"), condition=full)
    scene = [Scene("x", torch.zeros(3, SIZE, SIZE), "a cat")]
    with Session(backbone) as session:
        controls = []
        for technique in (one, two):
            with session.use(technique) as steered:
                controls.append(steered.prepare(scene).told[technique])
    assert [float(c.mean()) for c in controls] == [1, 0]


def save_blip(folder: Any) -> None:
    """A random captioner of twelve words."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "[DEC]", "[ENC]", "a", "cat", "dog", "on", "roof"]
    (folder / "vocab.txt").write_text("\n".join(words))
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(words), "encoder_hidden_size": 8, "bos_token_id": 5, "pad_token_id": 0,
            "sep_token_id": 2, "eos_token_id": 2, "max_position_embeddings": 160}  # fmt: skip
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config={**small, "image_size": 16, "patch_size": 8}, projection_dim=8)
    )
    for weight in model.parameters():
        weight.data.normal_(std=0.7)
    model.save_pretrained(folder)
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer).save_pretrained(folder)


def test_a_captioner_by_the_name_of_its_model(backbone: Backbone, tmp_path: Any, monkeypatch: Any) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from diffeat.techniques import captioner

    save_blip(tmp_path)
    monkeypatch.setattr(captioner, "_TOKENS", 6)
    shown = picture(3)
    processor, model = (c.from_pretrained(tmp_path) for c in (AutoProcessor, AutoModelForImageTextToText))
    tokens = model.generate(**processor(images=shown, return_tensors="pt"), max_new_tokens=6, do_sample=False)
    text = processor.batch_decode(tokens, skip_special_tokens=True)[0].strip()
    assert text
    technique = parse_combination(f"caption-model:{tmp_path}").one(Prompt)
    assert technique == Prompt(caption_model=str(tmp_path))
    assert technique.per_image
    (found,) = Extractor(recipe(technique), backbone).extract([shown])
    assert found.provenance["prompt"] == text
    assert fingerprint_with("base", [technique]) != "base"
    with pytest.raises(ModelError, match="cannot be loaded as a captioner"):
        features(backbone, Prompt(caption_model=str(tmp_path / "none")))
    with pytest.raises(InvalidValueError, match="request belongs to caption_model"):
        Prompt(text="a", request="describe")


def test_captioner_and_captions_by_name(backbone: Backbone) -> None:
    captioner = Prompt(captioner=lambda image: "a dog" if image.size == (SIZE, SIZE) else "?")
    assert torch.equal(features(backbone, captioner), features(backbone, Prompt(text="a dog")))
    names = [f.image for f in Extractor(recipe(), backbone).extract([picture(0), picture(1)])]
    captions = Prompt(captions=dict.fromkeys(names, "a dog"))
    assert torch.equal(features(backbone, captions), features(backbone, Prompt(text="a dog")))
