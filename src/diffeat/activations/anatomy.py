"""What a module of a denoiser is: block, attention, feed-forward, resnet …, and where it stands.

Blocks are known by the families (:mod:`diffeat.backbones.families`). A class that is not known still works through its
shape: whatever has ``to_q`` is an attention, whatever has a known second linear is a feed-forward, whatever is called
``…TransformerBlock`` is a block. Classes are named by their class name, so nothing of diffusers is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import nn

from diffeat.backbones.blocks import BlockRule, ModulationRule
from diffeat.backbones.families import IMAGE_STACKS, TEXT_MODULES, block_rule

Role = Literal["stem", "head", "stage", "sampler", "resnet", "vit", "block", "attention", "ffn"]

# The second linear of a feed-forward, by the child that marks the class; its input is the activated hidden layer.
_SECOND_LINEARS = ("w2", "out_projection", "linear_out", "conv_point", "linear_2")
_UNET_STACK = re.compile(r"(down|up)_blocks\.(\d+)|mid_block")
_BLOCK_STACK = re.compile(r"(\w+)\.(\d+)(?:\.|$)")
_STEMS = ("conv_in", "pos_embed", "x_embedder", "img_in", "patch_embed")
_HEADS = ("conv_out", "proj_out", "proj_out_2")


def class_name(module: nn.Module) -> str:
    return type(module).__name__


def has(module: nn.Module | None, child: str) -> bool:
    """Whether ``module`` has a submodule at the dotted path ``child``."""
    for part in child.split("."):
        module = None if module is None else module._modules.get(part)
    return module is not None


def is_unet(denoiser: nn.Module) -> bool:
    return has(denoiser, "up_blocks") and has(denoiser, "down_blocks")


def is_text_side(path: str) -> bool:
    return not TEXT_MODULES.isdisjoint(path.split("."))


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
    return class_name(module).endswith("TransformerBlock") or block_rule(module) is not None


def modulation_of(block: nn.Module) -> Mapping[str, ModulationRule]:
    """The adaptive norms of a block, by the child that consumes what they give; those that this very block uses."""
    rule = block_rule(block)
    return rule.modulation if rule is not None and getattr(block, "modulation", True) else {}


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


def stage_of(path: str) -> str:
    """``down 0``, ``mid``, ``up 1`` in UNets, ``transformer_blocks 12`` in transformers, else the root."""
    if match := _UNET_STACK.match(path):
        return f"{match[1]} {match[2]}" if match[1] else "mid"
    if match := _BLOCK_STACK.match(path):
        return f"{match[1]} {match[2]}"
    return path.split(".")[0]


@dataclass(frozen=True)
class Modulated:
    """An adaptive norm: paths of its block and of the child that consumes its output, and where its parameters are."""

    block: str
    consumer: str
    rule: ModulationRule


@dataclass(frozen=True)
class Node:
    """A module in its denoiser."""

    denoiser: nn.Module
    path: str
    module: nn.Module
    parent: nn.Module | None

    @classmethod
    def of(cls, denoiser: nn.Module, path: str) -> Node:
        parent, _, _ = path.rpartition(".")
        return cls(denoiser, path, denoiser.get_submodule(path), denoiser.get_submodule(parent) if parent else None)

    @property
    def rule(self) -> BlockRule | None:
        return block_rule(self.module)

    @property
    def text(self) -> bool:
        """Whether it carries text, not the image."""
        return is_text_side(self.path)

    @property
    def joint(self) -> bool:
        """Whether it is an attention that mixes text and image tokens in one softmax."""
        rule = None if self.parent is None else block_rule(self.parent)
        alone = self.path.split(".")[0] in IMAGE_STACKS
        return has(self.module, "add_q_proj") or (rule is not None and rule.joint and not alone)

    @property
    def modulated(self) -> Modulated | None:
        """The adaptive norm whose output it consumes; a block stands for its first one, that of its attention."""
        rule = self.rule
        if rule is not None:
            norm = modulation_of(self.module).get(rule.attention)
            return norm and Modulated(self.path, f"{self.path}.{rule.attention}", norm)
        block, _, child = self.path.rpartition(".")
        outer = None if self.parent is None else block_rule(self.parent)
        if self.parent is None or outer is None or child == outer.attention:
            return None
        norm = modulation_of(self.parent).get(child)
        return norm and Modulated(block, self.path, norm)

    @cached_property
    def role(self) -> Role | None:
        """What it is among the modules whose outputs are listed."""
        path, module = self.path, self.module
        if path in _STEMS and not class_name(module).endswith(("RotaryPosEmbed", "EmbedRope", "PosEmbed")):
            return "stem"
        if path in _HEADS:
            return "head"
        if _UNET_STACK.fullmatch(path):
            return "stage"
        if ".downsamplers." in path or ".upsamplers." in path:
            return "sampler" if path.rpartition(".")[0].endswith("samplers") else None
        if is_resnet(module):
            return "resnet"
        if is_wrapper(module):
            return "vit"
        if is_block(module):
            return "block"
        if is_attention(module):
            return "attention"
        return "ffn" if inner_of(module) is not None else None

    @property
    def anchor(self) -> str | None:
        """The nearest module around it whose input has height and width, on UNets."""
        if not is_unet(self.denoiser):
            return None
        path, attention = self.path, None
        while path:
            module = self.denoiser.get_submodule(path)
            if is_wrapper(module):
                return path
            if is_attention(module):
                attention = attention or path
            path = path.rpartition(".")[0]
        return attention


def nodes(denoiser: nn.Module) -> Iterator[Node]:
    """Every module that does not carry text, in the order of ``named_modules``."""
    modules = dict(denoiser.named_modules())
    for path, module in modules.items():
        if path and not is_text_side(path):
            yield Node(denoiser, path, module, modules.get(path.rpartition(".")[0]))
