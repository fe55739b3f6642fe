"""Word maps and concepts on every tiny family, against matrices that are formed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diffeat.activations import Catalogue
from diffeat.activations.attended import Attended
from diffeat.activations.attention import AttentionCall
from diffeat.activations.concepts import CONCEPTS, ConceptRows, read_concepts
from diffeat.backbones import Backbone, TokenLayout
from diffeat.backbones.families import FAMILIES as NAMED
from diffeat.errors import DiffeatError, InvalidValueError, UnknownNameError
from diffeat.extraction import Extractor, Reading, load_source
from diffeat.extraction.attending import passes
from diffeat.features import Picture
from diffeat.tasks.parts.find import attention_parts
from diffeat.tasks.words import ConceptOptions, WordOptions, concept_maps, text_attentions, words
from diffeat.tasks.words.layers import PRESETS, Preset, choose_layers, preset_of
from diffeat.tasks.words.maps import MOST_WORDS, WordWatch, aggregate
from tiny.pipelines import FAMILIES, build

PICTURE = Picture.of(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8), name="noise")
#: Each kind of text attention in every run, its relatives in slow ones.
KINDS = ("sd15", "pixart_sigma", "hunyuan_dit", "sd3", "flux", "aura_flow", "qwen_image", "lumina2", "z_image")
WITHOUT_TEXT = ("ddpm", "dit")
READ = [
    family if family in KINDS else pytest.param(family, marks=pytest.mark.slow)
    for family in FAMILIES
    if family not in WITHOUT_TEXT
]
WITH_CONCEPTS = ("sd3", "sd35", "flux", "chroma", "aura_flow", "qwen_image", "flux2_klein")
_BUILT: dict[str, Extractor] = {}


def _extractor(family: str) -> Extractor:
    if family not in _BUILT:
        backbone = Backbone.from_pipeline(build(family))
        recipe = Reading(
            name=family, model=family,
            activations=[next(a.id for a in Catalogue.of(backbone) if a.kind in ("block", "resnet"))],
            frame={"mode": "squash", "size": [96, 64]}, trajectory={"timesteps": [200]},
        )  # fmt: skip
        _BUILT[family] = Extractor(recipe, backbone)
    return _BUILT[family]


@pytest.mark.parametrize("family", READ)
def test_maps_are_probabilities_of_an_eager_attention(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _extractor(family)
    backbone = source.backbone
    layer = list(text_attentions(backbone))[-1]
    prompt = "a cat on a sofa"
    found = words(PICTURE, ["cat", "sofa"], source, WordOptions(prompt, (layer,), normalise="none"))
    matrices: list[Tensor] = []

    def eager(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
        logits = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
        matrices.append(logits.softmax(-1))
        return matrices[-1] @ value

    module = backbone.denoiser.get_submodule(layer.rpartition(".")[0])
    with torch.no_grad(), backbone.ready():
        monkeypatch.setattr(F, "scaled_dot_product_attention", eager)
        first: list[Tensor] = []
        before = module.register_forward_pre_hook(lambda *_: matrices.clear())
        after = module.register_forward_hook(lambda *_: first.append(matrices[0]))
        for inputs in passes(source.recipe, backbone, PICTURE, prompt):
            backbone.denoiser(**inputs)
        before.remove()
        after.remove()
    matrix = first[0].mean(1)[0]
    h, w = found.maps.shape[1:]
    joint = layer.endswith("cross_map")
    layout = backbone.family.layout(backbone.denoiser.config, inputs) if joint else None
    image = slice(0, h * w) if layout is None else slice(layout.starts(len(matrix), 1)[0], None)
    rows = matrix[image][: h * w]
    text = 0 if layout is None else layout.text_start()
    for word, values in zip(found.names, found.maps, strict=True):
        columns = [text + t for t in backbone.token_index(prompt, word)]
        assert torch.allclose(rows[:, columns].mean(1).reshape(h, w), values, atol=1e-6)


@pytest.mark.parametrize("family", WITH_CONCEPTS)
def test_concepts_change_nothing_and_see_the_picture_as_a_text_of_their_own_would(family: str) -> None:
    source = _extractor(family)
    backbone = source.backbone
    layers: list[ConceptRows] = []
    with torch.no_grad(), backbone.ready():
        inputs = next(passes(source.recipe, backbone, PICTURE, "a cat"))
        text = inputs["encoder_hidden_states"]
        concepts = torch.randn(1, 3, text.shape[2], generator=torch.Generator().manual_seed(0))
        plain = backbone.denoiser(**inputs)[0]
        pooled = inputs.get("pooled_projections") if family == "flux" else None
        output = read_concepts(backbone, concepts, layers.append, pooled=pooled, stop=False, **inputs)[0]
        assert torch.equal(plain, output)
        # the first block's picture does not depend on the text, so a run with the concepts as text gives their stream
        alone = dict(inputs, encoder_hidden_states=concepts)
        for name in ("txt_ids", "encoder_hidden_states_mask", "attention_mask"):
            if alone.get(name) is not None:
                alone[name] = (
                    alone[name][..., :1, :].expand(*alone[name].shape[:-2], 3, -1) if name == "txt_ids" else None
                )
        if family not in (
            "aura_flow",
            "qwen_image",
            "chroma",
        ):  # registers, places of their own, masks of the text's length
            block = backbone.denoiser.get_submodule(layers[0].name)
            streams: list[Tensor] = []
            handle = block.register_forward_hook(lambda _, __, out: streams.append(out[0]))
            backbone.denoiser(**alone)
            handle.remove()
            assert torch.allclose(streams[0], layers[0].stream, atol=1e-5)
    assert len(layers) == len(list(backbone.denoiser.get_submodule(layers[0].name.rpartition(".")[0]).children()))
    found = concept_maps(PICTURE, ["cat", "sofa"], source, ConceptOptions(prompt="a cat"))
    assert torch.allclose(found.maps.sum(0), torch.ones(found.maps.shape[1:]), atol=1e-5)


def test_every_class_with_concepts_is_tried() -> None:
    assert {type(_extractor(family).backbone.denoiser).__name__ for family in WITH_CONCEPTS} == set(CONCEPTS)


def test_refining_is_the_product_with_self_attention() -> None:
    source = _extractor("sd15")
    layer = "up_blocks.3.attentions.0.transformer_blocks.0.attn2.map"
    plain = words(PICTURE, ["cat"], source, WordOptions("a cat", (layer,), normalise="none")).maps
    refined = words(PICTURE, ["cat"], source, WordOptions("a cat", (layer,), normalise="none", refine=1)).maps
    from diffeat.activations import read
    from diffeat.tasks.parts.find import self_attentions

    with torch.no_grad(), source.backbone.ready():
        inputs = next(passes(source.recipe, source.backbone, PICTURE, "a cat"))
        ids = self_attentions(source.backbone)
        matrices = [m[0].mean(0) for m in read(source.backbone, ids, **inputs).values()]
    looks = torch.stack([m for m in matrices if len(m) == plain[0].numel()]).mean(0)
    assert torch.allclose((looks @ plain.flatten()).reshape(plain[0].shape), refined[0], atol=1e-6)


def test_words_take_a_twentieth_of_the_memory_of_all_probabilities() -> None:
    """The shape of Stable Diffusion 1.5 at 512 px: what a layer makes at a time, and what is kept of it."""
    made: list[int] = []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            made.extend(
                r.numel() for r in (result if isinstance(result, tuple) else (result,)) if isinstance(r, Tensor)
            )
            return result

    def layer(side: int) -> Attended:
        query, key = torch.randn(1, 8, side**2, 40), torch.randn(1, 8, 77, 40)
        return Attended(f"{side}", AttentionCall(query, key), TokenLayout((side, side)), False, 2**22)

    sides = (64, 32, 16, 8)
    whole = sum(count * 8 * side**2 * 77 for count, side in zip((5, 5, 5, 1), sides, strict=True))
    watch = WordWatch({f"{side}": False for side in sides}, [[k] for k in range(1, 6)])
    layers = [layer(side) for side in sides]
    received = layers[0].call.query.numel()
    with Largest():
        for attended in layers:
            watch(attended)
        watch.end()
    kept = sum(count * maps.numel() for count, maps in zip((5, 5, 5, 1), watch.mean().values(), strict=True))
    own = [n for n in made if n != received]  # a view of all queries is no memory of its own
    assert 2 * max(own) + kept < whole / 20  # logits, and what their sum makes of them
    assert torch.allclose(watch.mean()["8"], layers[-1].text(range(1, 6)))


def test_heads_count_as_published_where_asked() -> None:
    few, many = torch.zeros(1, 1, 2, 2), torch.ones(3, 1, 2, 2)
    assert aggregate([few, many]).unique().tolist() == [0.5]
    assert aggregate([few, many], weigh="heads").unique().tolist() == [0.75]


@pytest.mark.parametrize(
    ("family", "said", "error", "message"),
    [
        ("sd15", {"words": []}, InvalidValueError, "at least one word"),
        ("sd15", {"words": ["x"] * 3 + [f"w{k}" for k in range(10_000)]}, InvalidValueError, f"at most {MOST_WORDS}"),
        ("sd15", {"words": ["dog"], "prompt": "a cat"}, UnknownNameError, "has no word 'dog'"),
        ("sd15", {"words": ["cat", "\x00 "]}, InvalidValueError, "no empty one"),
        ("sd15", {"words": ["\u200b"]}, InvalidValueError, "no empty one"),
        ("sd15", {"words": ["cat"], "layers": ("mid_block.attn9",)}, UnknownNameError, "No text attention"),
        ("sd15", {"words": ["cat"], "layers": ("*attn2.map[99]",)}, InvalidValueError, r"heads 0 to \d+, not 99"),
        ("sd15", {"words": ["cat"], "layers": ("*attn2.map[0]",), "refine": 1}, InvalidValueError, "without a head"),
        ("sd15", {"words": ["cat"], "background": float("nan")}, InvalidValueError, "between 0 and 1"),
        ("sd15", {"words": ["cat"], "prompt": "so " * 200 + "cat"}, InvalidValueError, "beyond the tokens"),
        ("dit", {"words": ["cat"]}, InvalidValueError, "no text attention"),
    ],
)
def test_bad_input(family: str, said: dict, error: type[DiffeatError], message: str) -> None:
    asked = dict(said)
    with pytest.raises(error, match=message):
        words(PICTURE, asked.pop("words"), _extractor(family), WordOptions(**asked))


@pytest.mark.parametrize(
    ("family", "said", "options", "error", "message"),
    [
        ("sd15", ["cat"], ConceptOptions(), InvalidValueError, "no text stream"),
        ("sd3", ["cat"], ConceptOptions(), InvalidValueError, "alone has all of every place"),
        ("sd3", ["cat"], ConceptOptions(background=("Cat",)), InvalidValueError, "stands for the rest as well"),
        ("sd3", ["cat", "sofa"], ConceptOptions(layers=("*.77",)), UnknownNameError, "no block"),
    ],
)
def test_bad_input_of_concepts(family: str, said: list[str], options: ConceptOptions, error, message: str) -> None:
    with pytest.raises(error, match=message):
        concept_maps(PICTURE, said, _extractor(family), options)


def test_a_picture_of_one_colour_gives_maps_without_nan_and_a_note() -> None:
    found = words(Picture.of(np.full((64, 96, 3), 127, np.uint8)), ["cat", "CAT"], _extractor("sd15"))
    assert torch.isfinite(found.maps).all()
    assert found.names == ("cat",)
    assert "one colour" in found.notes[-1]


def test_the_preset_of_a_family_is_used() -> None:
    assert set(PRESETS) - {"tiny-unet", "tiny-dit"} <= set(NAMED)
    source = _extractor("sd15")
    ids = text_attentions(source.backbone)
    assert set(choose_layers(source.backbone, None)) == {id for id in ids if not id.startswith("mid_block")}
    assert "DAAM" in words(PICTURE, ["cat"], source).notes[1]
    small = _extractor("sd3").backbone  # has no block 9
    assert list(choose_layers(small, None)) == list(text_attentions(small))
    assert preset_of(small) == Preset()
    layer = "transformer_blocks.7.attn2.map"
    assert choose_layers(Backbone.from_pretrained("tiny-dit"), None) == {layer: [0]}


def test_a_source_without_one_diffusion_model_is_one_line() -> None:
    source: Any = load_source("baseline:rgb")
    for read in (
        lambda: words(PICTURE, ["cat"], source),
        lambda: concept_maps(PICTURE, ["cat", "sofa"], source),
        lambda: attention_parts(source, Picture.of(PICTURE)),
    ):
        with pytest.raises(InvalidValueError, match="reads no single diffusion model"):
            read()
