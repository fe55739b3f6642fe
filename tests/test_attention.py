"""Attention maps against dense probabilities computed inside the model's own attention call."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from diffeat.activations import Catalogue, MapRequest, Taps, read
from diffeat.activations.attention import AttentionCall, AttentionWatch, probabilities
from diffeat.errors import InvalidValueError, TapError
from stock_calls import denoiser_of, forward_kwargs
from tiny.pipelines import FAMILIES, build

SDPA = torch.nn.functional.scaled_dot_product_attention


def dense(q: Tensor, k: Tensor, mask=None, causal=False, scale=None) -> Tensor:
    """The textbook: softmax of the whole matrix in float64."""
    q, k = q.double(), k.double().repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    logits = torch.einsum("bhqd,bhkd->bhqk", q, k) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask.double()
    if causal:
        logits = logits.masked_fill(torch.ones(logits.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    return logits.softmax(-1)


def dense_maps(net: nn.Module, kwargs: dict, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The dense probabilities of every attention of one whole forward pass."""
    current: list[str] = []
    found: dict[str, Tensor] = {}

    def spy(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **rest):
        if current:
            found.setdefault(current[-1], dense(query, key, attn_mask, is_causal, scale))
        return SDPA(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **rest)

    handles = []
    for name, module in net.named_modules():
        if hasattr(module, "processor"):
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: current.append(name)))
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", spy)
        net(**kwargs)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_maps_are_what_the_model_attends_with(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = denoiser_of(build(name)).eval()
    kwargs = forward_kwargs(net, (8, 8) if name == "dit" else (8, 16))
    expected = dense_maps(net, kwargs, monkeypatch)
    ids = [a.id for a in Catalogue.of(net) if a.kind == "map"]
    with torch.no_grad():
        got = read(net, ids, **kwargs)
    assert {i.rpartition(".")[0] for i in ids} <= set(expected)
    for id, value in got.items():
        path, _, part = id.rpartition(".")
        whole = expected[path]
        if part == "map":
            torch.testing.assert_close(value.double(), whole, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(value.sum(-1), torch.ones_like(value.sum(-1)), rtol=1e-4, atol=1e-4)
        else:  # a block of the whole matrix, found by its place in the catalogue of the map itself
            assert value.shape[:2] == whole.shape[:2]
            assert (value.sum(-1) <= 1 + 1e-4).all()
    joint = [i.rpartition(".")[0] for i in ids if i.endswith("cross_map")]
    for path in joint:
        image, text = got[f"{path}.self_map"], got[f"{path}.cross_map"]
        n = image.shape[-1]
        image_first = torch.allclose(image.double(), expected[path][..., :n, :n], rtol=1e-4, atol=1e-6)
        start = 0 if image_first else expected[path].shape[-1] - n
        rows = expected[path][..., start : start + n, :]
        torch.testing.assert_close(image.double(), rows[..., start : start + n], rtol=1e-4, atol=1e-6)
        wide = rows[..., -text.shape[-1] :] if image_first else rows[..., start - text.shape[-1] : start]
        torch.testing.assert_close(text.double(), wide, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def unet():
    return build("sd15").unet.eval()


CROSS = "up_blocks.2.attentions.1.transformer_blocks.0.attn2.map"
SELF = "up_blocks.2.attentions.1.transformer_blocks.0.attn1.map"


@pytest.mark.parametrize("chunk", [1, 50, 10**6])
def test_reductions_are_parts_of_the_whole(unet, chunk: int) -> None:
    kwargs = forward_kwargs(unet, (8, 16))
    requests = [
        CROSS,
        SELF,
        MapRequest(CROSS),
        MapRequest(CROSS, tokens=[2, 5]),
        MapRequest(CROSS, heads="all", tokens=[5]),
        MapRequest(SELF, queries=[3, 0, 7]),
        MapRequest(CROSS, queries=[3], tokens=[2, 5]),
    ]
    with torch.no_grad(), Taps(unet, requests, chunk=chunk) as taps:
        got = taps.run(**kwargs)
    assert list(got) == [str(r) for r in requests]
    whole, own = got[CROSS], got[SELF]
    h, w = Catalogue.of(unet, size=(128, 64))[CROSS.replace(".map", ".q")].grid
    close = {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(got[str(requests[2])], whole.mean(1), **close)
    words = whole[..., [2, 5]].mean(1).transpose(1, 2).unflatten(-1, (h, w))
    torch.testing.assert_close(got[str(requests[3])], words, **close)
    one = whole[..., [5]].transpose(2, 3).unflatten(-1, (h, w))
    torch.testing.assert_close(got[str(requests[4])], one, **close)
    looks = own[:, :, [3, 0, 7]].mean(1).unflatten(-1, (h, w))
    torch.testing.assert_close(got[str(requests[5])], looks, **close)
    torch.testing.assert_close(got[str(requests[6])], whole[:, :, [3]][..., [2, 5]].mean(1), **close)


def test_words_out_of_range(unet) -> None:
    with pytest.raises(InvalidValueError, match="there are 77"):
        read(unet, MapRequest(CROSS, tokens=[77]), **forward_kwargs(unet))


@given(
    heads=st.sampled_from([(4, 4), (4, 2), (4, 1)]),
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 9)),
    mask=st.sampled_from(["none", "bool", "bias", "row"]),
    causal=st.booleans(),
    scale=st.sampled_from([None, 0.3]),
    chunk=st.sampled_from([1, 7, 40, 10**6]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_probabilities(heads, sizes, mask, causal, scale, chunk, seed) -> None:
    torch.manual_seed(seed)
    n, m = sizes
    q, k = torch.randn(2, heads[0], n, 5), torch.randn(2, heads[1], m, 5)
    masks = {
        "none": None,
        "bool": torch.rand(2, 1, n, m) > 0.4,
        "bias": torch.randn(2, heads[0], n, m),
        "row": torch.randn(m),
    }
    bias = masks[mask]
    if mask == "bool":
        bias[..., 0] = True
    expected = dense(q, k, bias, causal, scale)
    call = AttentionCall(q, k, bias, causal, scale)
    got = probabilities(call, [slice(None)], [slice(None)], chunk=chunk)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-6)
    rows, columns = torch.randint(n, (3,)), torch.randint(m, (2,))
    some = probabilities(call, [rows], [columns], mean_heads=True, chunk=chunk)
    torch.testing.assert_close(some.double(), expected.mean(1)[:, rows][..., columns], rtol=1e-4, atol=1e-6)
    ragged = probabilities(call, [slice(0, n), slice(0, n)], [slice(0, m), slice(0, 1)], chunk=chunk)
    torch.testing.assert_close(ragged[0].double(), expected[0], rtol=1e-4, atol=1e-6)
    assert not ragged[1, ..., 1:].any()


def test_grouped_queries_through_the_real_call() -> None:
    q, k = torch.randn(1, 4, 3, 5), torch.randn(1, 2, 6, 5)
    seen: list[Tensor] = []

    def report(call: AttentionCall) -> None:
        seen.append(probabilities(call, [slice(None)], [slice(None)]))

    with AttentionWatch(report):
        out = SDPA(q, k, k, enable_gqa=True)
    repeated = k.repeat_interleave(2, dim=1)
    torch.testing.assert_close(seen[0] @ repeated, out)


def test_halves_stay_halves(unet) -> None:
    import copy

    half = copy.deepcopy(unet).bfloat16()
    kwargs = {k: v.bfloat16() for k, v in forward_kwargs(unet).items()}
    with torch.no_grad():
        got = read(half, [CROSS, MapRequest(CROSS, tokens=[1])], **kwargs)
    assert {v.dtype for v in got.values()} == {torch.bfloat16}
    assert torch.allclose(got[CROSS].float().sum(-1), torch.ones(1), atol=0.02)


def test_linear_attention_has_no_map() -> None:
    net = build("sana").transformer.eval()
    with pytest.raises(TapError, match="SanaLinearAttnProcessor2_0"):
        read(net, "transformer_blocks.0.attn1.map", **forward_kwargs(net))


def test_sliced_attention_is_explained(unet) -> None:
    unet.set_attention_slice(1)
    try:
        with pytest.raises(TapError, match="AttnProcessor2_0"):
            read(unet, CROSS, **forward_kwargs(unet))
    finally:
        unet.set_attn_processor(AttnProcessor2_0())
    assert read(unet, CROSS, **forward_kwargs(unet))


def test_other_layers_keep_fused_attention(unet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the wanted layer's attention is computed a second time, and the whole matrix is never formed."""
    largest: list[int] = []
    calls: list[int] = []
    import diffeat.activations.attention as module

    real = module._logits

    def spy(*args):
        value = real(*args)
        largest.append(value.numel())
        return value

    monkeypatch.setattr(module, "_logits", spy)
    monkeypatch.setattr(module, "_call_of", lambda *a, _real=module._call_of, **k: calls.append(1) or _real(*a, **k))
    with torch.no_grad(), Taps(unet, MapRequest(SELF, tokens=[0]), chunk=64) as taps:
        taps.run(**forward_kwargs(unet, (8, 16)))
    assert len(calls) == 1
    assert len(largest) > 1
    assert max(largest) <= 64


def test_no_mode_is_left_behind(unet) -> None:
    def stack() -> int:
        return len(torch.overrides._get_current_function_mode_stack())

    before = stack()
    inner = unet.get_submodule(CROSS.replace(".map", ".to_v"))
    for error in (RuntimeError, KeyboardInterrupt):

        def fail(*_, error=error):
            raise error

        handle = inner.register_forward_hook(fail)
        with pytest.raises(error):
            read(unet, CROSS, **forward_kwargs(unet))
        handle.remove()
        assert stack() == before
    read(unet, [CROSS, SELF], **forward_kwargs(unet))
    assert stack() == before


def test_gradients_flow_through_maps(unet) -> None:
    kwargs = forward_kwargs(unet)
    kwargs["encoder_hidden_states"].requires_grad_()
    read(unet, MapRequest(CROSS, tokens=[3]), **kwargs)[f"{CROSS}[heads=mean,tokens=3]"].sum().backward()
    assert kwargs["encoder_hidden_states"].grad.abs().sum() > 0
