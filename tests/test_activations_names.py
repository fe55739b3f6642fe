"""Names: aliases both ways, patterns, and what a wrong name is answered."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import pytest
import torch

from conftest import golden_roots
from diffeat.activations import Catalogue, MapRequest, Taps, read
from diffeat.activations.names import compile_pattern
from diffeat.errors import DiffeatError, InvalidValueError, ModelError, UnknownNameError
from test_golden_gdf import load_denoiser
from tiny.pipelines import build

GDF = {p.parent.name: p.parent for root in golden_roots() for p in (root / "gdf").glob("*/expected.safetensors")}


@pytest.fixture(scope="module")
def unet():
    return build("sd15").unet.eval()


@pytest.fixture(scope="module")
def flux():
    return build("flux").transformer.eval()


@pytest.fixture(scope="module")
def real_unet():
    """Stable Diffusion 1.5 at its real size, without weights."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    with torch.device("meta"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)


@pytest.mark.parametrize("family", sorted(GDF))
def test_every_gdf_id_is_an_alias_in_reference_order(family: str) -> None:
    meta = json.loads((GDF[family] / "meta.json").read_text())
    catalogue = Catalogue.of(load_denoiser(GDF[family]))
    order = [n.removeprefix("gdf:") for a in catalogue for n in a.aliases if n.startswith("gdf:")]
    wanted = meta["ids_in_reference_order"]
    assert set(wanted) <= set(order)
    convolutional = [n for n in wanted if n.endswith(("res-out", "vit-out", "sampler-out", "block0-out", "self-q"))]
    assert convolutional == [n for n in order if n in convolutional]


def test_alias_tables(unet, flux) -> None:
    catalogue = Catalogue.of(unet)
    assert [catalogue[f"dift:{i}"].id for i in range(4)] == [f"up_blocks.{i}" for i in range(4)]
    assert [catalogue[f"dhf:{n}"].id for n in range(1, 13)] == [
        f"up_blocks.{i}.resnets.{j}.increment" for i in range(4) for j in range(3)
    ]
    assert catalogue["cleandift:us6"].id == "up_blocks.1"
    assert catalogue["cleandift:us10"].id == "up_blocks.3.attentions.0"
    assert catalogue["cleandift:mid"].id == "mid_block"
    blocks = Catalogue.of(flux)
    doubles = len(flux.transformer_blocks)
    assert blocks["ditf:0"].id == "transformer_blocks.0.adaln"
    assert blocks[f"ditf:{doubles}"].id == "single_transformer_blocks.0.adaln"
    assert "ditf:0" in blocks["transformer_blocks.0.adaln"].aliases
    assert blocks["gdf:vit-block0-out"].id == "transformer_blocks.0"
    assert blocks[f"gdf:vit-block{doubles}-q"].id == "single_transformer_blocks.0.attn.q"


def test_published_costs(real_unet) -> None:
    """Shares of the 0.803 TFLOP of one pass at 512 pixels, as published for the reference's early exits."""
    catalogue = Catalogue.of(real_unet)
    assert catalogue.flops == pytest.approx(0.803e12, rel=1e-3)
    assert catalogue["gdf:up-level1-repeat2-res-out"].depth == pytest.approx(0.487, abs=1e-3)
    assert catalogue["gdf:up-level2-repeat1-vit-block0-cross-q"].depth == pytest.approx(0.652, abs=1e-3)
    assert (catalogue["dift:1"].channels, catalogue["dift:1"].grid) == (1280, (32, 32))
    assert Catalogue.of(real_unet, size=(768, 512))["dift:1"].grid == (32, 48)
    with pytest.raises(InvalidValueError, match="multiple of 8"):
        Catalogue.of(real_unet, size=(770, 512))


def test_patterns(unet) -> None:
    catalogue = Catalogue.of(unet)
    resnets = [a.id for a in catalogue.find("up_blocks.*.resnets.*")]
    assert resnets == [f"up_blocks.{i}.resnets.{j}" for i in range(4) for j in range(3)]
    queries = catalogue.find("*attn2.q")
    assert queries
    assert {a.kind for a in queries} == {"attention-q"}
    assert all("attn2" in a.id for a in queries)
    assert catalogue.find("gdf:up-level1-repeat?-res-out") == catalogue.find("up_blocks.1.resnets.[0-2]")
    mixed = catalogue.find(["dift:3", "dift:0", "up_blocks.1"])
    assert [a.id for a in mixed] == ["up_blocks.0", "up_blocks.1", "up_blocks.3"]
    assert "dift:3" in catalogue
    assert "dift:9" not in catalogue


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("a.*.c", "a.b.c", "a.b.b.c"),
        ("a.**.c", "a.b.b.c", "b.a.c"),
        ("*attn.q", "x.y.attn.q", "x.attn.q.z"),
        ("a.[!b]", "a.c", "a.b"),
        ("a.?", "a.1", "a.10"),
        ("**a*b", "a.a1b", "a.1b"),
        ("a.[[c]*", "a.c1", "a.b1"),
    ],
)
def test_pattern_language(pattern: str, yes: str, no: str) -> None:
    assert compile_pattern(pattern).fullmatch(yes)
    assert not compile_pattern(pattern).fullmatch(no)


def test_patterns_mean_what_plain_regular_expressions_do() -> None:
    chance = random.Random(0)
    plain = {"**": ".*", "*": r"[^.]*", "?": r"[^.]", "[!a]": r"[^.a]", "[ab]": "[ab]", "a": "a", "b": "b", ".": r"\."}
    matched = 0
    for _ in range(4000):
        pieces = ["a", *chance.choices([*plain], k=chance.randint(1, 7))]
        if any(one.startswith("*") and other.startswith("*") for one, other in itertools.pairwise(pieces)):
            continue  # read as another star
        text = "a" + "".join(chance.choices("ab.", k=chance.randint(0, 8)))
        expected = re.fullmatch("".join(plain[piece] for piece in pieces), text) is not None
        assert (compile_pattern("".join(pieces)).fullmatch(text) is not None) == expected, (pieces, text)
        matched += expected
    assert matched > 100


def test_no_pattern_takes_forever_or_is_no_regular_expression() -> None:
    name = "up_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    for pattern in ("**?" * 90 + "**!", "x" + "*?" * 90 + "!", "**u*b" * 60):  # ages, with backtracking
        assert not compile_pattern(pattern).fullmatch(name)
    with pytest.raises(InvalidValueError, match=r"\[z-a\]"):
        compile_pattern("[z-a]")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("up_blocks.1.resnet.2", "up_blocks.1.resnets.2"),
        ("dift:7", "dift:3"),
        ("gdf:vit-block3-norm-out", "FLUX.1"),
        ("ditf:3", "diffusion transformers"),
        ("single_transformer_blocks.3", "FLUX"),
        ("up_blocks.1.adaln", "transformers"),
        ("up_blocks.1.attentions.0.transformer_blocks.0.ff.adaln", "transformers"),
        ("up_blocks.1.resnets.0.q", "without a q projection"),
        ("up_blocks.1.resnets.0.map", "not an attention"),
        ("up_blocks.1.attentions.0.transformer_blocks.0.attn2.cross_map", "attn2.map"),
        ("up_blocks.*", "find"),
        ("", "No activation"),
    ],
)
def test_wrong_names_on_a_unet(unet, name: str, says: str) -> None:
    with pytest.raises(UnknownNameError, match=says.replace(".", r"\.")):
        Taps(unet, [name])
    if "*" not in name:
        with pytest.raises(UnknownNameError):
            Catalogue.of(unet).find(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("up_blocks.1", "UNets"),
        ("gdf:up-level1-repeat0-res-out", "UNets"),
        ("cleandift:us6", "UNets"),
        ("gdf:vit-block0-self-q", "gdf:vit-block0"),
        ("transformer_blocks.0.attn.adaln", "no modulated"),
    ],
)
def test_wrong_names_on_flux(flux, name: str, says: str) -> None:
    with pytest.raises(UnknownNameError, match=says):
        read(flux, name)


def test_other_wrong_arguments(unet) -> None:
    with pytest.raises(InvalidValueError, match="no activation"):
        Taps(unet, [])
    with pytest.raises(InvalidValueError, match="not an attention map"):
        Taps(unet, [MapRequest("up_blocks.1", tokens=[1])])
    with pytest.raises(InvalidValueError, match="got str"):
        Taps("unet", ["up_blocks.1"])
    with pytest.raises(ModelError, match="inputs="):
        Catalogue.of(torch.nn.Linear(1, 1))
    with pytest.raises(InvalidValueError, match="heads"):
        MapRequest("a.map", heads="some")  # type: ignore[arg-type]
    with pytest.raises(DiffeatError, match="tokens"):
        MapRequest("a.map", tokens=[])


def test_catalogue_from_a_call_of_an_unknown_class(unet) -> None:
    """The arguments of a real call stand in for the rules about the class."""
    kwargs = {
        "sample": torch.randn(2, 4, 8, 16),
        "timestep": torch.tensor([5]),
        "encoder_hidden_states": torch.randn(2, 7, unet.config.cross_attention_dim),
    }
    catalogue = Catalogue.of(unet, inputs=kwargs)
    assert catalogue["conv_in"].grid == (8, 16)
    assert catalogue["up_blocks.3.attentions.0.transformer_blocks.0.attn2.map"].channels == 7


def test_from_model_reads_no_weights(tmp_path: Path) -> None:
    pipeline = build("sd15")
    pipeline.save_pretrained(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    assert [a.id for a in Catalogue.from_model(str(tmp_path))] == [a.id for a in Catalogue.of(pipeline)]
