"""Every family of denoiser: what the catalogue promises is what a forward pass gives."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from diffeat.activations import Catalogue, Taps, read
from diffeat.activations.anatomy import is_unet
from diffeat.backbones.families import structure_of
from stock_calls import denoiser_of, forward_kwargs
from tiny.pipelines import FAMILIES, build

LISTS = Path(__file__).parent / "catalogues"
SQUARE_ONLY = ("dit",)  # its output is unpatchified as a square


@cache
def pipeline(name: str):
    return build(name)


def denoiser(name: str) -> nn.Module:
    return denoiser_of(pipeline(name)).eval()


def small(name: str) -> tuple[int, int]:
    """A latent that every tiny family accepts, not square where it may be."""
    return (8, 8) if name in SQUARE_ONLY else (8, 16)


def hooks(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_golden_list(name: str) -> None:
    """Ids and their order; rewrite the lists with ``python tests/catalogues/rewrite.py`` and review the difference."""
    expected = (LISTS / f"{name}.txt").read_text().split()
    assert [a.id for a in Catalogue.of(pipeline(name))] == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_catalogue_tells_the_shapes_and_order_of_a_real_pass(name: str) -> None:
    net = denoiser(name)
    kwargs = forward_kwargs(net, small(name))
    stride = structure_of(net).latent_stride
    catalogue = Catalogue.of(net, size=(small(name)[1] * stride, small(name)[0] * stride))
    ids = [a.id for a in catalogue]
    seen: list[str] = []
    with torch.no_grad(), Recorder(net, ids[::-1], seen) as taps:
        found = taps.run(**kwargs)
    assert list(found) == ids[::-1]
    position = {id: i for i, id in enumerate(ids)}
    assert sorted(seen, key=position.__getitem__) == ids
    depths = [a.depth for a in catalogue]
    assert depths == sorted(depths)
    assert 0 <= depths[0] <= depths[-1] <= 1
    for a in catalogue:
        value = found[a.id]
        assert value.isfinite().all(), a.id
        if a.kind == "map":
            assert value.shape[:2] == (2, a.heads), a.id
        elif a.kind == "modulation":
            assert value.shape == (2, a.channels), a.id
        elif a.grid is None:
            assert value.dim() == 3, a.id
            assert value.shape[-1] == a.channels, a.id
        else:
            assert value.shape == (2, a.channels, *a.grid), a.id
    assert hooks(net) == 0


class Recorder(Taps):
    """Taps that also note the order of arrival."""

    def __init__(self, net: nn.Module, ids: list[str], seen: list[str]) -> None:
        super().__init__(net, ids)
        self.seen = seen

    def _deliver(self, tap, value) -> None:
        new = tap not in self._values
        try:
            super()._deliver(tap, value)
        finally:
            if new and tap in self._values:
                self.seen += tap.keys


@pytest.mark.parametrize("name", FAMILIES)
def test_batch_rows_are_those_of_single_runs(name: str) -> None:
    net = denoiser(name)
    kwargs = forward_kwargs(net, small(name))
    ids = chosen(net)
    with torch.no_grad():
        both = read(net, ids, **kwargs)
        for row in range(2):
            alone = read(net, ids, **{k: take(k, v, row) for k, v in kwargs.items()})
            for id in ids:
                torch.testing.assert_close(both[id][row], alone[id][0], rtol=1e-4, atol=1e-5)


def take(name: str, value, row: int):
    if name in ("img_ids", "txt_ids", "image_rotary_emb") or value is None:
        return value
    if isinstance(value, dict):
        return {k: take(k, v, row) for k, v in value.items()}
    return value[row : row + 1]


def chosen(net: nn.Module) -> list[str]:
    """One activation of several kinds, the last of each."""
    last = {a.kind: a.id for a in Catalogue.of(net)}
    kinds = ("resnet", "increment", "block", "attention-q", "map", "ffn-inner", "adaln")
    return [last[k] for k in kinds if k in last]


@pytest.mark.parametrize("name", FAMILIES)
def test_watching_changes_nothing(name: str) -> None:
    net = denoiser(name)
    kwargs = forward_kwargs(net, (8, 8))
    with torch.no_grad():
        plain = net(**kwargs, return_dict=False)[0]
        with Taps(net, chosen(net), stop=False) as taps:
            watched = net(**kwargs, return_dict=False)[0]
            found = taps.collect()
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    stopped = read(net, chosen(net), **kwargs)
    for id, value in found.items():
        torch.testing.assert_close(value, stopped[id], rtol=0, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_adaln_is_what_the_consumer_receives(name: str) -> None:
    net = denoiser(name)
    ids = [a.id for a in Catalogue.of(net) if a.kind == "adaln"]
    assert bool(ids) != is_unet(net)
    if not ids:
        return
    kwargs = forward_kwargs(net, small(name))
    with torch.no_grad():
        found = read(net, ids, **kwargs)
        last = [i for i in ids if i.count(".") == 2][-1]
        attention = next(n for n, m in net.get_submodule(last[:-6]).named_children() if hasattr(m, "processor"))
        received: list[Tensor] = []
        handle = net.get_submodule(f"{last[:-6]}.{attention}").register_forward_pre_hook(
            lambda m, a, k: received.append(a[0] if a else k["hidden_states"]), with_kwargs=True
        )
        net(**kwargs)
        handle.remove()
    value = found[last]
    tokens = received[0]
    size = value.shape[-2] * value.shape[-1]
    # the image is a contiguous run of the sequence, in row-major order
    flat = value.flatten(2).transpose(1, 2)
    starts = [s for s in range(tokens.shape[1] - size + 1) if torch.equal(tokens[:, s : s + size], flat)]
    assert len(starts) == 1


def test_texts_of_different_length_in_one_batch() -> None:
    """Lumina 2 packs each text to its true length, so the image starts at another token in every row."""
    net = denoiser("lumina2")
    kwargs = forward_kwargs(net, (8, 16))
    lengths = (5, 256)
    for row, length in enumerate(lengths):
        kwargs["encoder_attention_mask"][row, length:] = 0
    path = "layers.1"
    ids = [path, f"{path}.adaln", f"{path}.attn.k", f"{path}.attn.cross_map", f"{path}.attn.self_map"]
    with torch.no_grad():
        both = read(net, ids, **kwargs)
        for row, length in enumerate(lengths):
            alone = {k: take(k, v, row) for k, v in kwargs.items()}
            for name in ("encoder_hidden_states", "encoder_attention_mask"):
                alone[name] = alone[name][:, :length]
            single = read(net, ids, **alone)
            for id in ids:
                got = both[id][row]
                if id.endswith("cross_map"):
                    assert not got[..., length:].any()
                    got = got[..., :length]
                torch.testing.assert_close(got, single[id][0], rtol=1e-4, atol=1e-5)
