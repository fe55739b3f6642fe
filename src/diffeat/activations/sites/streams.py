"""What goes into a module, what comes out of it, what it adds on the way, and the hidden layer of a feed-forward."""

from __future__ import annotations

from diffeat.activations.anatomy import Node, class_name, has, inner_of, is_attention, is_block, is_resnet, is_wrapper
from diffeat.activations.sites.probe import IncrementProbe, InputProbe, NoSuchSite, OutputProbe, Site, Stream


class Input(Site):
    """``MODULE.in``: the first tensor that a module is given."""

    name = "in"
    kinds = ("input",)

    def kind_at(self, node: Node) -> str | None:
        return "input" if node.path == "conv_in" else None

    def at(self, node: Node) -> InputProbe:
        return InputProbe(node.path, _stream(node), anchor=node.anchor)


class Output(Site):
    """``MODULE``: its output, the image stream where it returns several tensors."""

    name = ""
    kinds = ("stem", "head", "stage", "sampler", "resnet", "vit", "block", "attention", "ffn")

    def kind_at(self, node: Node) -> str | None:
        return node.role

    def at(self, node: Node) -> OutputProbe:
        return OutputProbe(node.path, _stream(node), _item(node), anchor=node.anchor)


class Increment(Site):
    """``MODULE.increment``: what a residual module adds to its input."""

    name = "increment"
    kinds = ("increment",)

    def kind_at(self, node: Node) -> str | None:
        residual = node.role in ("resnet", "vit", "block") or (node.role == "sampler" and is_resnet(node.module))
        return "increment" if residual else None

    def at(self, node: Node) -> IncrementProbe | OutputProbe:
        if is_resnet(node.module):
            return OutputProbe(f"{node.path}.conv2", "image")
        if is_block(node.module) or is_wrapper(node.module):
            return IncrementProbe(node.path, "image", _item(node), anchor=node.anchor)
        kind = class_name(node.module)
        raise NoSuchSite(f"a {kind} has no residual branch; increments exist on resnets and blocks")


class Inner(Site):
    """``FEEDFORWARD.inner``: its hidden layer after the activation; ``BLOCK.inner`` where the MLP is no module."""

    name = "inner"
    kinds = ("ffn-inner",)

    def kind_at(self, node: Node) -> str | None:
        if node.role == "block":
            inside = node.rule is not None and node.rule.inner is not None and has(node.module, node.rule.inner)
        else:
            inside = node.role == "ffn"
        return "ffn-inner" if inside else None

    def at(self, node: Node) -> InputProbe | OutputProbe:
        if node.rule is not None and node.rule.inner:
            return OutputProbe(f"{node.path}.{node.rule.inner}", "image", anchor=node.anchor)
        hidden = inner_of(node.module)
        if hidden is None:
            raise NoSuchSite(f"{node.path!r} is a {class_name(node.module)}, not a feed-forward")
        child, where = hidden
        stream: Stream = "text" if node.text else "image"
        probe = InputProbe if where == "input" else OutputProbe
        return probe(f"{node.path}.{child}", stream, anchor=node.anchor)


def _stream(node: Node) -> Stream:
    if node.text:
        return "text"
    return "image" if is_block(node.module) or is_attention(node.module) or inner_of(node.module) else "any"


def _item(node: Node) -> int:
    return node.rule.item if node.rule else 0
