"""What goes into a module, what comes out of it, and what it adds on the way."""

from __future__ import annotations

from diffeat.activations.anatomy import Node, class_name, inner_of, is_attention, is_block, is_resnet, is_wrapper
from diffeat.activations.sites.probe import IncrementProbe, InputProbe, OutputProbe, Stream
from diffeat.activations.sites.site import NoSuchSite, Site


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


def _stream(node: Node) -> Stream:
    if node.text:
        return "text"
    return "image" if is_block(node.module) or is_attention(node.module) or inner_of(node.module) else "any"


def _item(node: Node) -> int:
    return node.rule.item if node.rule else 0
