"""What every registered family, card and site must bring; a forgotten registration fails here, never at a user's."""

from __future__ import annotations

import fnmatch
from functools import cache

import diffusers
import pytest
import torch
from torch import nn

from diffeat.activations import KINDS, SITES, Activation, Catalogue, Taps, modulated_sites, read
from diffeat.activations.anatomy import has, is_block, modulation_of
from diffeat.backbones import FAMILIES, Backbone, TokenLayout, card_of, cards, dummy_inputs, layout_of, resolve_model
from diffeat.backbones.card import Card, unsupported
from diffeat.backbones.families import block_rule, structure_of
from diffeat.errors import ModelError
from stock_calls import denoiser_of, forward_kwargs
from tiny import pipelines

NAMED = sorted(name for name, family in FAMILIES.items() if family.denoiser_class)


@cache
def network(name: str) -> nn.Module:
    return denoiser_of(pipelines.build(name)).eval()


@cache
def catalogue(name: str) -> Catalogue:
    return Catalogue.of(network(name))


@cache
def tiny() -> dict[str, list[str]]:
    """Tiny pipelines by family."""
    found: dict[str, list[str]] = {}
    for name in pipelines.FAMILIES:
        found.setdefault(structure_of(network(name)).name, []).append(name)
    return found


@pytest.mark.parametrize("family", NAMED)
def test_a_family_has_a_card_and_a_tiny_pipeline(family: str) -> None:
    assert hasattr(diffusers, FAMILIES[family].denoiser_class)
    assert family in {card.family for card in cards().values()}
    assert tiny().get(family), f"tests/tiny/pipelines.py has no pipeline of the family {family!r}"


@pytest.mark.parametrize("family", NAMED)
def test_a_familys_dummy_inputs_run_and_its_layout_reads_them(family: str) -> None:
    for name in tiny()[family]:
        net = network(name)
        with torch.device("meta"):
            bare = type(net).from_config(net.config)
        inputs = dummy_inputs(bare)
        layout = layout_of(bare, inputs)
        assert isinstance(layout, TokenLayout)
        rows, columns = structure_of(bare).default_latent(net.config)
        assert layout.grid[0] * columns == layout.grid[1] * rows
        if name != "lumina2":  # its real mask meets meta queries; the catalogue's own pass moves it
            with torch.no_grad():
                bare(**inputs)


@pytest.mark.parametrize("family", NAMED)
def test_a_familys_blocks_are_known_with_their_modulation(family: str) -> None:
    """Blocks that tell their consumers what modulates them, or say that nothing does."""
    used = set()
    for name in tiny()[family]:
        for path, module in network(name).named_modules():
            if is_block(module):
                rule = block_rule(module)
                assert rule is not None, f"{type(module).__name__} of {path} is in no family's blocks"
                used.add(rule.name)
                for consumer, norm in modulation_of(module).items():
                    if consumer == rule.attention or has(module, consumer):
                        assert all(has(module, child) for child in (consumer, norm.norm, norm.child) if child)
    assert used == {rule.name for rule in FAMILIES[family].blocks}


def test_every_site_is_offered_by_a_tiny_pipeline() -> None:
    offered = {_site_of(a) for name in pipelines.FAMILIES for a in catalogue(name)}
    assert offered == set(SITES)
    kinds = {a.kind for name in pipelines.FAMILIES for a in catalogue(name)}
    assert kinds == set(KINDS)


@pytest.mark.parametrize("site", SITES)
def test_a_site_is_read_as_the_catalogue_says(site: str) -> None:
    name = next(n for n in pipelines.FAMILIES if any(_site_of(a) == site for a in catalogue(n)))
    entry = next(a for a in catalogue(name) if _site_of(a) == site)
    assert entry.kind in SITES[site].kinds
    with torch.no_grad(), Taps(network(name), entry.id) as taps:
        value = taps.run(**forward_kwargs(network(name)))[entry.id]
    if entry.kind == "map":
        assert value.shape[:2] == (2, entry.heads)
    elif entry.kind == "modulation":
        assert (value.shape, value.dtype) == ((2, entry.channels), torch.float32)
        assert entry.grid is None
    else:
        assert value.shape == (2, entry.channels, *(entry.grid or ()))


def _site_of(entry: Activation) -> str:
    last = entry.id.rpartition(".")[2]
    return last if last in SITES else ""


@pytest.mark.parametrize("name", ["flux", "pixart_sigma", "lumina2", "hunyuan_dit"])
def test_one_pass_brings_all_of_an_adaptive_norm_and_ends_there(name: str) -> None:
    net = network(name)
    ids = [a.id for a in catalogue(name) if a.kind == "adaln"][:2]
    sites = modulated_sites(net, ids)
    wanted = [id for s in sites for id in (s.raw, *s.parameters.values())]
    ran: list[str] = []
    stacks = {s.block.split(".")[0] for s in sites}
    blocks = [(path, m) for path, m in net.named_modules() if is_block(m) and path.split(".")[0] in stacks]
    last = max(i for i, (path, _) in enumerate(blocks) if path in {s.block for s in sites})
    handles = [m.register_forward_hook(lambda *_, path=path: ran.append(path)) for path, m in blocks[last:]]
    with torch.no_grad():
        got = read(net, [*ids, *wanted], **forward_kwargs(net))
        alone = read(net, wanted, **forward_kwargs(net))
    for handle in handles:
        handle.remove()
    assert not ran
    assert all(torch.equal(got[id], alone[id]) for id in wanted)
    for id, site in zip(ids, sites, strict=True):
        norm, raw = site.norm, got[site.raw]
        x = raw - raw.mean(1, keepdim=True) if norm.kind == "layer" else raw
        x = x * torch.rsqrt(x.square().mean(1, keepdim=True) + norm.eps)
        for factor, apply in ((norm.weight, torch.mul), (norm.bias, torch.add)):
            x = x if factor is None else apply(x, factor[:, None, None])
        x = x if site.scale is None else x * (1 + got[site.scale][:, :, None, None])
        x = x if site.shift is None else x + got[site.shift][:, :, None, None]
        torch.testing.assert_close(got[id], x, rtol=1e-4, atol=1e-5)


def test_a_catalogue_is_measured_once_for_a_class_a_configuration_and_a_size() -> None:
    first = Catalogue.of(denoiser_of(pipelines.build("flux", seed=1)))
    assert Catalogue.of(denoiser_of(pipelines.build("flux", seed=2))) is first
    assert Catalogue.of(network("flux"), size=(64, 96)) is not first
    assert Catalogue.of(network("sd3")) is not Catalogue.of(network("sd35"))


@pytest.mark.parametrize(("clip", "t5"), [(9, 256), (77, 12), (9, 12)])
def test_text_lengths_of_hunyuan_dit_are_those_of_its_configuration(clip: int, t5: int) -> None:
    net = network("hunyuan_dit")
    other = _changed(net, text_len=clip, text_len_t5=t5)
    keys = next(a for a in Catalogue.of(other) if a.id.endswith("attn2.map"))
    assert keys.channels == clip + t5


@pytest.mark.parametrize("name", ["lumina2", "z_image"])
def test_texts_are_no_longer_than_the_positions_allow(name: str) -> None:
    net = network(name)
    lengths = [96, *net.config["axes_lens"][1:]]
    assert len(Catalogue.of(_changed(net, axes_lens=lengths)))


def _changed(net: nn.Module, **config: object) -> nn.Module:
    """The same class with another configuration."""
    own = {name: value for name, value in net.config.items() if not name.startswith("_")}
    return type(net).from_config(own | config)


def test_cards_name_pipelines_that_exist_and_alternatives_that_load() -> None:
    for entry in unsupported():
        assert all(fnmatch.filter(dir(diffusers), name) for name in entry.classes), entry.classes
        assert set(entry.instead) <= cards().keys()
    classes = [name for entry in unsupported() for name in entry.classes]
    assert len(classes) == len(set(classes))
    assert not {family.denoiser_class for family in FAMILIES.values()} & set(classes)
    for name in cards():
        card = card_of(name)
        assert card is not None
        assert resolve_model(name) == list(card.ids)
    assert card_of("someone/some-model") is None


def test_a_card_is_checked() -> None:
    plain = {"family": "sd", "ids": ["a/b"], "licence": "mit", "prediction": "epsilon", "size": [512, 512]}
    assert Card.model_validate(plain).ids == ("a/b",)
    wrong = ({"family": "sb"}, {"prediction": "flow"}, {"ids": []}, {"ids": ["no id"]}, {"license": "mit"})
    for change in wrong:
        with pytest.raises(ValueError, match=r"family|predict|ids|license"):
            Card.model_validate(plain | change)


def test_an_unsupported_pipeline_says_what_to_load_instead() -> None:
    flux = pipelines.build("flux")
    kontext = diffusers.FluxKontextPipeline(**flux.components)
    with pytest.raises(ModelError, match=r"FluxKontextPipeline is not supported.*'flux-dev'"):
        Backbone.from_pipeline(kontext)
