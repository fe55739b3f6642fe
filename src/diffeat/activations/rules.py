"""What each class of diffusers module offers: where its image stream is, and which sites it has.

Everything that depends on how diffusers writes a module lives in this file. Classes are named by their class
name, so nothing is imported. A class that is not listed still works through its shape: whatever has ``to_q``
is an attention, whatever has a known second linear is a feed-forward, whatever is called
``…TransformerBlock`` is a block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

SITES = ("in", "increment", "q", "k", "v", "map", "self_map", "cross_map", "inner", "adaln")


@dataclass(frozen=True)
class BlockRule:
    """A transformer block: which children consume its modulated image stream, and where it returns that
    stream.

    Attributes:
        attention: The child that consumes the first modulated tensor.
        feedforward: The child that consumes the second one, or ``None`` where the MLP is parallel to the
        attention.
        item: Position of the image stream when the block returns a tuple.
        joint: Whether the attention runs over one sequence of text and image tokens without a text branch of
        its own.
        modulated_mlp: Whether the feed-forward's input is modulated too (Hunyuan-DiT has a plain norm there).
        inner: Child whose output is the MLP after its activation, for blocks without a feed-forward module.
    """

    attention: str
    feedforward: str | None = "ff"
    item: int = 0
    joint: bool = False
    modulated_mlp: bool = True
    inner: str | None = None


BLOCKS: dict[str, BlockRule] = {
    "AuraFlowJointTransformerBlock": BlockRule("attn", item=1),
    "AuraFlowSingleTransformerBlock": BlockRule("attn", joint=True),
    "BasicTransformerBlock": BlockRule("attn1"),
    "ChromaSingleTransformerBlock": BlockRule("attn", None, joint=True, inner="act_mlp"),
    "ChromaTransformerBlock": BlockRule("attn", item=1),
    "CogView4TransformerBlock": BlockRule("attn1"),
    "Flux2SingleTransformerBlock": BlockRule("attn", None, item=1, joint=True, inner="attn.mlp_act_fn"),
    "Flux2TransformerBlock": BlockRule("attn", item=1),
    "FluxSingleTransformerBlock": BlockRule("attn", None, item=1, joint=True, inner="act_mlp"),
    "FluxTransformerBlock": BlockRule("attn", item=1),
    "HunyuanDiTBlock": BlockRule("attn1", modulated_mlp=False),
    "JointTransformerBlock": BlockRule("attn", item=1),
    "Lumina2TransformerBlock": BlockRule("attn", "feed_forward", joint=True),
    "QwenImageTransformerBlock": BlockRule("attn", "img_mlp", item=1),
    "SanaTransformerBlock": BlockRule("attn1"),
    "ZImageTransformerBlock": BlockRule("attention", "feed_forward", joint=True),
}

# The second linear of a feed-forward, by the child that marks the class; its input is the activated hidden
# layer.
_SECOND_LINEARS = ("w2", "out_projection", "linear_out", "conv_point", "linear_2")

# Children of blocks and of the whole network that carry text, not the image.
_TEXT_PARTS = frozenset(
    [
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "norm_added_q",
        "norm_added_k",
        "norm1_context",
        "norm2_context",
        "ff_context",
        "txt_mlp",
        "txt_mod",
        "txt_norm",
        "txt_norm1",
        "txt_norm2",
        "txt_in",
        "context_refiner",
        "context_embedder",
        "caption_projection",
        "caption_norm",
        "cap_embedder",
        "text_embedder",
        "encoder_hid_proj",
        "time_caption_embed",
    ]
)

# Stacks in which a "joint" class of block still sees the image alone.
_IMAGE_ONLY_STACKS = ("noise_refiner",)

_UNET_STACK = re.compile(r"(down|up)_blocks\.(\d+)|mid_block")
_BLOCK_STACK = re.compile(r"(\w+)\.(\d+)(?:\.|$)")


def class_name(module: nn.Module) -> str:
    return type(module).__name__


def has(module: nn.Module, child: str) -> bool:
    """Whether ``module`` has a submodule at the dotted path ``child``."""
    for part in child.split("."):
        module = getattr(module, "_modules", {}).get(part)  # type: ignore[assignment]
        if module is None:
            return False
    return True


def is_unet(denoiser: nn.Module) -> bool:
    return has(denoiser, "up_blocks") and has(denoiser, "down_blocks")


def is_text_side(path: str) -> bool:
    return not _TEXT_PARTS.isdisjoint(path.split("."))


def is_attention(module: nn.Module) -> bool:
    return has(module, "to_q") or has(module, "to_qkv_mlp_proj")


def is_cross_attention(module: nn.Module) -> bool:
    return bool(getattr(module, "is_cross_attention", False))


def is_resnet(module: nn.Module) -> bool:
    return class_name(module) in ("ResnetBlock2D", "ResnetBlockCondNorm2D")


def is_wrapper(module: nn.Module) -> bool:
    """A transformer inside a UNet, whose input still has height and width."""
    return class_name(module) in ("Transformer2DModel", "DualTransformer2DModel")


def is_block(module: nn.Module) -> bool:
    return class_name(module) in BLOCKS or class_name(module).endswith("TransformerBlock")


def block_rule(module: nn.Module) -> BlockRule | None:
    return BLOCKS.get(class_name(module))


def is_modulated(block: nn.Module) -> bool:
    """Whether a block's norms are driven by the timestep (AdaLN in any of its forms)."""
    if class_name(block) not in BLOCKS:
        return False
    if class_name(block) == "BasicTransformerBlock":
        return str(getattr(block, "norm_type", "")).startswith("ada_norm")
    return bool(getattr(block, "modulation", True))


def is_joint(path: str, attention: nn.Module, block: nn.Module | None) -> bool:
    """Whether an attention mixes text and image tokens in one softmax."""
    if has(attention, "add_q_proj"):
        return True
    rule = None if block is None else block_rule(block)
    return rule is not None and rule.joint and not path.startswith(_IMAGE_ONLY_STACKS)


def is_modulated_mlp(block: nn.Module) -> bool:
    rule = block_rule(block)
    return rule is not None and rule.modulated_mlp and is_modulated(block)


def inner_of(module: nn.Module) -> tuple[str, Literal["output", "input"]] | None:
    """Where the hidden layer of a feed-forward is: a child, and whether to read its output or its input."""
    if class_name(module) == "FeedForward" and has(module, "net.0"):
        return "net.0", "output"
    if class_name(module) in ("Sequential", "Attention") or is_attention(module):
        return None
    for child in _SECOND_LINEARS:
        if has(module, child) and ("FeedForward" in class_name(module) or child == "conv_point"):
            return child, "input"
    return None


def heads_of(attention: nn.Module) -> int | None:
    heads = getattr(attention, "heads", None)
    return heads if isinstance(heads, int) else None


def stage_of(path: str) -> str:
    """``down 0``, ``mid``, ``up 1`` in UNets, ``transformer_blocks 12`` in transformers, else the root."""
    if found := _UNET_STACK.match(path):
        return f"{found[1]} {found[2]}" if found[1] else "mid"
    if found := _BLOCK_STACK.match(path):
        return f"{found[1]} {found[2]}"
    return path.split(".")[0]


@dataclass(frozen=True)
class Candidate:
    """An activation that a module offers, before anybody ran the network."""

    id: str
    kind: str
    stage: str
    heads: int | None = None


def candidates(denoiser: nn.Module) -> Iterator[Candidate]:
    """Every activation worth listing, in the order of ``named_modules``."""
    modules = dict(denoiser.named_modules())
    for path, module in modules.items():
        if not path or is_text_side(path):
            continue
        stage = stage_of(path)
        for site, kind in _offers(path, module, modules):
            heads = heads_of(module) if is_attention(module) and site in ("q", "k", "v", *_MAPS) else None
            yield Candidate(f"{path}.{site}" if site else path, kind, stage, heads)


_MAPS = ("map", "self_map", "cross_map")
_STEMS = ("conv_in", "pos_embed", "x_embedder", "img_in", "patch_embed")
_HEADS = ("conv_out", "proj_out", "proj_out_2")


def _offers(path: str, module: nn.Module, modules: dict[str, nn.Module]) -> Iterator[tuple[str, str]]:
    """``(site, kind)`` pairs of one module; the empty site is the output."""
    parent = modules.get(path.rpartition(".")[0])
    if path in _STEMS and not class_name(module).endswith(("RotaryPosEmbed", "EmbedRope", "PosEmbed")):
        yield from ((("in", "input"),) if path == "conv_in" else ())
        yield "", "stem"
    elif path in _HEADS:
        yield "", "head"
    elif _UNET_STACK.fullmatch(path):
        yield "", "stage"
    elif ".downsamplers." in path or ".upsamplers." in path:
        if path.rpartition(".")[0].endswith("samplers"):
            yield "", "sampler"
            if is_resnet(module):
                yield "increment", "increment"
    elif is_resnet(module):
        yield "increment", "increment"
        yield "", "resnet"
    elif is_wrapper(module):
        yield "", "vit"
        yield "increment", "increment"
    elif is_block(module):
        if is_modulated(module):
            yield "adaln", "adaln"
        rule = block_rule(module)
        if rule is not None and rule.inner and has(module, rule.inner):
            yield "inner", "ffn-inner"
        yield "", "block"
        yield "increment", "increment"
    elif is_attention(module):
        if is_second_modulated(path, parent):
            yield "adaln", "adaln"
        yield from (
            (s, f"attention-{s}") for s in ("q", "k", "v") if has(module, f"to_{s}") or has(module, "to_qkv_mlp_proj")
        )
        yield "map", "map"
        if is_joint(path, module, parent):
            yield "self_map", "map"
            yield "cross_map", "map"
        yield "", "attention"
    elif inner_of(module) is not None:
        if parent is not None and is_modulated_mlp(parent):
            yield "adaln", "adaln"
        yield "inner", "ffn-inner"
        yield "", "ffn"


def is_second_modulated(path: str, block: nn.Module | None) -> bool:
    """The second attention of an SD3.5 dual block, which consumes a modulated tensor of its own."""
    return block is not None and class_name(block) == "JointTransformerBlock" and path.endswith(".attn2")
