"""From an id to the place in the network where its tensor can be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from diffeat.activations import rules

Where = Literal["output", "input", "increment", "map"]
Stream = Literal["image", "text", "any"]


@dataclass(frozen=True)
class Source:
    """Where an activation is read.

    Attributes:
        module: Path of the hooked module.
        where: Its output, its first input, output minus input, or the attention probabilities inside it.
        stream: ``image`` must come out on the grid; ``text`` stays a token sequence; ``any`` becomes a grid
        if it fits.
        item: Position of the image stream in a tuple output.
        columns: Channels ``[start, stop)`` of a fused projection.
        part: For maps: ``map``, ``self_map`` (image x image) or ``cross_map`` (image x text).
        anchor: On UNets, the module whose 4-D input gives the grid.
    """

    module: str
    where: Where
    stream: Stream
    item: int = 0
    columns: tuple[int, int] | None = None
    part: str = ""
    anchor: str | None = None


class NoSuchSite(Exception):
    """The module exists but does not offer the site; the text says why."""


def find_source(denoiser: nn.Module, name: str) -> Source | None:
    """The source of an id, ``None`` if no module has that path.

    Raises:
        NoSuchSite: The path is right and the site is not offered there.
    """
    if not name:
        return None
    if rules.has(denoiser, name):
        return _output(denoiser, name)
    path, _, site = name.rpartition(".")
    if site not in rules.SITES or not path or not rules.has(denoiser, path):
        return None
    return _site(denoiser, path, site)


def _stream(path: str, module: nn.Module) -> Stream:
    if rules.is_text_side(path):
        return "text"
    listed = rules.is_block(module) or rules.is_attention(module) or rules.inner_of(module)
    return "image" if listed else "any"


def _output(denoiser: nn.Module, path: str) -> Source:
    module = denoiser.get_submodule(path)
    rule = rules.block_rule(module)
    return Source(path, "output", _stream(path, module), item=rule.item if rule else 0, anchor=_anchor(denoiser, path))


def _site(denoiser: nn.Module, path: str, site: str) -> Source:
    module = denoiser.get_submodule(path)
    block = _parent(denoiser, path)
    anchor = _anchor(denoiser, path)
    if site == "in":
        return Source(path, "input", _stream(path, module), anchor=anchor)
    if site == "increment":
        return _increment(path, module, anchor)
    if site in ("q", "k", "v"):
        return _projection(path, module, site, anchor)
    if site in ("map", "self_map", "cross_map"):
        if not rules.is_attention(module):
            raise NoSuchSite(f"{path!r} is a {rules.class_name(module)}, not an attention")
        if site != "map" and not rules.is_joint(path, module, block):
            raise NoSuchSite(f"{path!r} attends to one kind of token only; ask for '{path}.map'")
        return Source(path, "map", "image", part=site, anchor=anchor)
    if site == "inner":
        return _inner(path, module, anchor)
    return _adaln(denoiser, path, module, block)


def _increment(path: str, module: nn.Module, anchor: str | None) -> Source:
    if rules.is_resnet(module):
        return Source(f"{path}.conv2", "output", "image")
    if rules.is_block(module) or rules.is_wrapper(module):
        rule = rules.block_rule(module)
        return Source(path, "increment", "image", item=rule.item if rule else 0, anchor=anchor)
    raise NoSuchSite(f"a {rules.class_name(module)} has no residual branch; increments exist on resnets and blocks")


def _projection(path: str, module: nn.Module, site: str, anchor: str | None) -> Source:
    text = site != "q" and rules.is_cross_attention(module)
    stream: Stream = "text" if text or rules.is_text_side(path) else "image"
    if rules.has(module, f"to_{site}"):
        return Source(f"{path}.to_{site}", "output", stream, anchor=anchor)
    if rules.has(module, "to_qkv_mlp_proj"):
        width, turn = int(module.inner_dim), "qkv".index(site)  # type: ignore[arg-type]
        return Source(f"{path}.to_qkv_mlp_proj", "output", stream, columns=(turn * width, (turn + 1) * width))
    raise NoSuchSite(f"{path!r} is a {rules.class_name(module)} without a {site} projection")


def _inner(path: str, module: nn.Module, anchor: str | None) -> Source:
    rule = rules.block_rule(module)
    if rule is not None and rule.inner:
        return Source(f"{path}.{rule.inner}", "output", "image", anchor=anchor)
    found = rules.inner_of(module)
    if found is None:
        raise NoSuchSite(f"{path!r} is a {rules.class_name(module)}, not a feed-forward")
    stream: Stream = "text" if rules.is_text_side(path) else "image"
    return Source(f"{path}.{found[0]}", found[1], stream, anchor=anchor)


def _adaln(denoiser: nn.Module, path: str, module: nn.Module, block: nn.Module | None) -> Source:
    if rules.is_unet(denoiser):
        raise NoSuchSite("a UNet has no AdaLN-modulated inputs; 'adaln' exists in diffusion transformers only")
    rule = rules.block_rule(module)
    if rule is not None and rules.is_modulated(module):
        return Source(f"{path}.{rule.attention}", "input", "image")
    is_mlp = rules.inner_of(module) is not None and block is not None and rules.is_modulated_mlp(block)
    if (is_mlp or rules.is_second_modulated(path, block)) and not rules.is_text_side(path):
        return Source(path, "input", "image")
    raise NoSuchSite(f"{path!r} ({rules.class_name(module)}) consumes no modulated image tokens")


def _parent(denoiser: nn.Module, path: str) -> nn.Module | None:
    head = path.rpartition(".")[0]
    return denoiser.get_submodule(head) if head else None


def _anchor(denoiser: nn.Module, path: str) -> str | None:
    """The nearest module around ``path`` whose input has height and width, on UNets."""
    if not rules.is_unet(denoiser):
        return None
    attention = None
    while path:
        module = denoiser.get_submodule(path)
        if rules.is_wrapper(module):
            return path
        if rules.is_attention(module):
            attention = attention or path
        path = path.rpartition(".")[0]
    return attention
