"""The hooks: stop early, never stay behind, never disturb each other or the model."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from diffeat.activations import MapRequest, Taps, read
from diffeat.errors import TapError
from stock_calls import forward_kwargs
from tiny.pipelines import build

ATTENTION = "up_blocks.1.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture(scope="module")
def built() -> nn.Module:
    return build("sd15").unet.eval()


@pytest.fixture
def unet(built) -> nn.Module:
    return copy.deepcopy(built)


@pytest.fixture
def kwargs(unet) -> dict:
    return forward_kwargs(unet, (8, 16))


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def ran(net: nn.Module, path: str) -> list[int]:
    """Counts the runs of a module from now on."""
    counts: list[int] = []
    net.get_submodule(path).register_forward_hook(lambda *_: counts.append(1))
    return counts


@pytest.mark.parametrize("order", [["dift:0", "up_blocks.1.resnets.1"], ["up_blocks.1.resnets.1", "dift:0"]])
def test_stops_right_after_the_last_wanted(unet, kwargs, order: list[str]) -> None:
    wanted, next_one = ran(unet, "up_blocks.1.resnets.1"), ran(unet, "up_blocks.1.attentions.1.norm")
    assert list(read(unet, order, **kwargs)) == order
    assert len(wanted) == 1
    assert not next_one


def test_a_map_stops_before_the_attention_itself(unet, kwargs) -> None:
    queries, output = ran(unet, f"{ATTENTION}.to_q"), ran(unet, f"{ATTENTION}.to_out.0")
    read(unet, MapRequest(f"{ATTENTION}.map"), **kwargs)
    assert queries
    assert not output


def test_any_module_path_is_readable(unet, kwargs) -> None:
    got = read(
        unet,
        ["time_embedding", "down_blocks.0.resnets.0.norm1", f"{ATTENTION}.to_out.0", f"{ATTENTION}.in"],
        **kwargs,
    )
    assert got["time_embedding"].dim() == 2
    assert got["down_blocks.0.resnets.0.norm1"].shape[-2:] == (8, 16)
    assert got[f"{ATTENTION}.to_out.0"].shape == got[f"{ATTENTION}.in"].shape
    assert got[f"{ATTENTION}.in"].dim() == 4


def test_text_stays_tokens(unet, kwargs) -> None:
    key = ATTENTION.replace("attn1", "attn2") + ".k"
    got = read(unet, key, **kwargs)[key]
    assert got.shape[:2] == (2, 77)


def test_one_tensor_for_two_names(unet, kwargs) -> None:
    got = read(unet, ["dift:1", "up_blocks.1", "cleandift:us6"], **kwargs)
    assert list(got) == ["dift:1", "up_blocks.1", "cleandift:us6"]
    assert got["dift:1"] is got["up_blocks.1"]


def test_increments_add_up(unet, kwargs) -> None:
    block = "up_blocks.2.attentions.0.transformer_blocks.0"
    resnet = "mid_block.resnets.0"
    got = read(unet, [f"{p}{s}" for p in (block, resnet) for s in ("", ".in", ".increment")], **kwargs)
    torch.testing.assert_close(got[block], got[f"{block}.in"] + got[f"{block}.increment"])
    torch.testing.assert_close(got[resnet], got[f"{resnet}.in"] + got[f"{resnet}.increment"])


def test_hooks_go_away(unet, kwargs) -> None:
    before = hooks(unet)
    with Taps(unet, ["dift:0", f"{ATTENTION}.q", f"{ATTENTION}.map"]) as taps:
        assert hooks(unet) > before
        taps.run(**kwargs)
    assert hooks(unet) == before
    for error in (ValueError, KeyboardInterrupt):

        def fail(*_, error=error):
            raise error

        handle = unet.mid_block.register_forward_hook(fail)
        with pytest.raises(error):
            read(unet, ["dift:0", f"{ATTENTION}.map"], **kwargs)
        handle.remove()
        assert hooks(unet) == before


def test_a_generator_left_half_way(unet, kwargs) -> None:
    def features():
        with Taps(unet, ["dift:0"]) as taps:
            while True:
                yield taps.run(**kwargs)

    stream = features()
    next(stream)
    assert hooks(unet)
    stream.close()
    assert hooks(unet) == 0


def test_only_wanted_modules_are_hooked(unet) -> None:
    with Taps(unet, ["dift:0", f"{ATTENTION}.q"]):
        hooked = [n for n, m in unet.named_modules() if m._forward_hooks or m._forward_pre_hooks]
    assert hooked == ["", "up_blocks.0", ATTENTION.partition(".transformer")[0], f"{ATTENTION}.to_q"]


def test_nested_taps(unet, kwargs) -> None:
    alone = {n: read(unet, n, **kwargs)[n] for n in ("dift:0", "dift:2")}
    with Taps(unet, ["dift:2"]) as outer, Taps(unet, ["dift:0"]) as inner:
        assert torch.equal(outer.run(**kwargs)["dift:2"], alone["dift:2"])
        assert torch.equal(inner.run(**kwargs)["dift:0"], alone["dift:0"])
        with pytest.raises(TapError, match="dift:2"):
            outer.collect()  # the inner run ended before it
    with Taps(unet, ["dift:0"], stop=False) as taps:
        read(unet, "dift:2", **kwargs)
        assert torch.equal(taps.collect()["dift:0"], alone["dift:0"])
    assert hooks(unet) == 0


def test_the_denoiser_inside_its_own_forward_pass(unet, kwargs) -> None:
    unet.mid_block.register_forward_hook(lambda *_: read(unet, "conv_in", **kwargs))
    with pytest.raises(TapError, match="inside its own forward pass"):
        read(unet, ["conv_in", "dift:0"], **kwargs)
    assert hooks(unet) == 1


def test_memory_that_the_model_overwrites(unet, kwargs) -> None:
    """FreeU scales the decoder's hidden states in place, after the block before has returned them."""
    clean = read(unet, "up_blocks.0", **kwargs)["up_blocks.0"]
    unet.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6)
    block = unet.up_blocks[1].resnets[0]
    seen: list = []
    block.register_forward_hook(lambda *_: seen.append(1))
    both = read(unet, ["up_blocks.0.resnets.0", "up_blocks.1"], **kwargs)
    assert seen
    only = read(unet, ["up_blocks.0.resnets.0"], **kwargs)
    assert torch.equal(both["up_blocks.0.resnets.0"], only["up_blocks.0.resnets.0"])
    assert clean.shape == read(unet, "up_blocks.0", **kwargs)["up_blocks.0"].shape


def test_an_output_written_to_afterwards(unet, kwargs) -> None:
    clean = read(unet, "conv_in", **kwargs)["conv_in"]

    def overwrite(_, args, kwargs) -> None:
        kwargs["hidden_states"].zero_()

    unet.down_blocks[0].register_forward_pre_hook(overwrite, with_kwargs=True)
    with torch.no_grad():
        got = read(unet, ["conv_in", "dift:0"], **kwargs)
    assert torch.equal(got["conv_in"], clean)


@pytest.mark.parametrize("when", ["before", "after", "between"])
def test_lora(unet, kwargs, when: str) -> None:
    from peft import LoraConfig

    name = f"{ATTENTION}.q"
    plain = read(unet, name, **kwargs)[name]
    config = LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False)
    expected: list = []

    def adapt() -> None:
        torch.manual_seed(3)
        unet.add_adapter(config)
        unet.get_submodule(f"{ATTENTION}.to_q").register_forward_hook(lambda m, a, out: expected.append(out))

    if when == "before":
        adapt()
    taps = Taps(unet, [name])
    if when == "after":
        adapt()
    with taps:
        if when == "between":
            assert torch.equal(taps.run(**kwargs)[name], plain)
            adapt()
        got = taps.run(**kwargs)[name]
    tokens = got.flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens, expected[-1])
    assert not torch.allclose(got, plain)
    unet.delete_adapters("default")
    torch.testing.assert_close(read(unet, name, **kwargs)[name], plain)


def test_fused_projections_are_explained(unet, kwargs) -> None:
    unet.fuse_qkv_projections()
    with pytest.raises(TapError, match="unfuse_qkv_projections"):
        read(unet, f"{ATTENTION}.q", **kwargs)
    assert read(unet, f"{ATTENTION}.map", **kwargs)  # the attention call itself is still seen
    unet.unfuse_qkv_projections()
    assert read(unet, f"{ATTENTION}.q", **kwargs)


def test_what_did_not_run_is_named(unet, kwargs) -> None:
    with Taps(unet, ["dift:0"]) as taps, pytest.raises(TapError, match="not been called"):
        taps.collect()
    with pytest.raises(TapError, match="not attached"):
        taps.run(**kwargs)
    with taps, pytest.raises(TapError, match="in use already"):
        taps.__enter__()
    unet.class_embedding = nn.Identity()  # a module that this model's forward pass does not use
    unet.get_class_embed = lambda **_: None
    with pytest.raises(TapError, match="without running 'class_embedding'"):
        read(unet, "class_embedding", **kwargs)


def test_chunked_feed_forward_is_explained(unet, kwargs) -> None:
    name = ATTENTION.replace("attn1", "ff")
    unet.get_submodule(ATTENTION.rpartition(".")[0]).set_chunk_feed_forward(4, dim=1)
    with pytest.raises(TapError, match="disable_forward_chunking"):
        read(unet, f"{name}.inner", **kwargs)


def test_gradients_and_inference_mode(unet, kwargs) -> None:
    name = f"{ATTENTION}.q"
    for wanted in ("dift:0", name):
        unet.zero_grad()
        read(unet, wanted, **kwargs)[wanted].square().mean().backward()
        assert unet.conv_in.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        got = read(unet, ["dift:0", name], **kwargs)
    assert got[name].is_inference()
    with torch.no_grad():
        assert not read(unet, name, **kwargs)[name].requires_grad


def test_nothing_is_kept_alive(built, kwargs) -> None:
    net = copy.deepcopy(built)
    with Taps(net, ["dift:1", f"{ATTENTION}.map"]) as taps:
        inputs = {k: v.clone() for k, v in kwargs.items()}
        sample = weakref.ref(inputs["sample"])
        feature = weakref.ref(taps.run(**inputs)["dift:1"])
        del inputs
        gc.collect()
        assert sample() is None
        assert feature() is None
    model, held = weakref.ref(net), weakref.ref(taps)
    del net, taps
    gc.collect()
    assert model() is None
    assert held() is None
